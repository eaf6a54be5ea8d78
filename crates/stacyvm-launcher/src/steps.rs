//! The steps of a sandbox's setup, taken by its first process on itself.

pub(crate) mod confine;
pub(crate) mod dev;
pub(crate) mod identity;
pub(crate) mod proc;
pub(crate) mod root;
