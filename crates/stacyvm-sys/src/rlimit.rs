//! Resource limits of the calling process.

use rustix::io::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limits that stand for a whole sandbox, set on its first process and inherited.
///
/// Never RLIMIT_NPROC: the kernel counts it per user and namespace in ways that surprise, and the
/// pids cgroup does it right.
///
/// # Errors
/// What the kernel says. Values above the present hard limit are brought down to it, because
/// raising needs a privilege that is not always there.
pub fn confine(open_files: u64) -> Result<()> {
    lower(Resource::Nofile, open_files)?;
    lower(Resource::Core, 0)?;
    lower(Resource::Memlock, 8 << 20)?;
    lower(Resource::Msgqueue, 819_200)?;
    lower(Resource::Sigpending, 4096)?;
    lower(Resource::Nice, 0)?;
    lower(Resource::Rtprio, 0)
}

/// The most address space that the calling process may have, in bytes: what it asks for beyond it
/// fails, and so does a program that cannot go on without.
///
/// # Errors
/// What the kernel says.
pub fn address_space(bytes: u64) -> Result<()> {
    lower(Resource::As, bytes)
}

fn lower(resource: Resource, value: u64) -> Result<()> {
    let hard = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(value.min(hard));
    setrlimit(
        resource,
        Rlimit {
            current: value,
            maximum: value,
        },
    )
}
