//! The Docker provider on a real engine: every key of its section, looked at from inside a container;
//! what happens behind the server's back; and what is left after everything was killed.

mod behind;
mod crash;
mod deploy;
mod files;
mod images;
mod limits;
mod network;
mod privileges;
mod runtime;
