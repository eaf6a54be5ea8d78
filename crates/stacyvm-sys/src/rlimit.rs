//! Resource limits of the calling process.

use rustix::io::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets the limits of a whole sandbox on its first process, from which all others inherit them.
///
/// RLIMIT_NPROC is not among them: the kernel counts it per user and namespace in surprising ways, and
/// the pids cgroup limits processes correctly.
///
/// # Errors
/// The error of the system call. Values above the present hard limit are brought down to it, because
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

/// Limits the address space of the calling process, in bytes. Allocations beyond it fail, which ends a
/// program that cannot continue without them.
///
/// # Errors
/// The error of the system call.
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
