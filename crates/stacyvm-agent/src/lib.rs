//! The program inside every sandbox: it runs commands, serves files and ports, and reaps processes.
//!
//! The agent owns everything that happens inside; it knows no provider. It speaks `stacyvm-proto` on
//! a listening unix socket, on its standard input and output, or on both, and every peer may do
//! everything. The provider decides who reaches them from outside; processes inside are refused. One
//! thread does the work, and a few others take what could keep it busy for long.
#![forbid(unsafe_code)]

mod agent;
mod blocking;
mod exec;
pub mod files;
mod forward;
mod init;
mod logs;
mod options;
mod preparation;
mod processes;
mod pty;
mod read_buffer;
mod reaper;
mod replies;
mod serve;
mod shutdown;
mod stdio;
mod tree;
mod usage;
mod users;

use std::process::ExitCode;

pub use options::AgentOptions;
pub use stacyvm_sys::caps::Set as Capabilities;
pub use users::user_numbers;

/// Runs an agent until it is asked to end, and returns the process's exit code.
pub fn run(options: AgentOptions) -> ExitCode {
    match init::prepare(options).and_then(init::serve_until_shutdown) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stacyvm-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
