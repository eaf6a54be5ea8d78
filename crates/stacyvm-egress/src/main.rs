//! `stacyvm-egress`: wiring only. The control socket is its standard input.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match stacyvm_egress::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("stacyvm-egress: {failure}");
            ExitCode::FAILURE
        }
    }
}
