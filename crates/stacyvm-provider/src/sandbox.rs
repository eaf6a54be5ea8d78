//! What can be done inside a box; `agent` is the one implementation for boxes with our agent.

mod agent;
mod operations;
mod port;
mod unix;

pub use agent::{AgentConnector, AgentSandbox, ByteStream};
pub use operations::{Execs, Files, Liveness, Logs, Ports, SandboxOps};
pub use port::PortConnection;
pub use unix::{UnixConnector, bind_unix};
