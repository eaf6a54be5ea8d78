//! `stacyvm egress`: the process that providers start beside the server. Not for people: it talks
//! over its standard input, and only to who started it.

use std::process::ExitCode;

use anyhow::Result;

pub(crate) fn run() -> Result<ExitCode> {
    stacyvm_egress::run()?;
    Ok(ExitCode::SUCCESS)
}
