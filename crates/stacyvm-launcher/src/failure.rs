//! Failures that name the step at which they happened.

use rustix::io::Errno;

use crate::control::LaunchFailure;

/// Turns the kernel's answer into a failure that names its step.
pub(crate) trait Step<T> {
    /// Names the step.
    fn step(self, step: &str) -> Result<T, LaunchFailure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &str) -> Result<T, LaunchFailure> {
        self.map_err(|errno| refused(step, errno))
    }
}

impl<T> Step<T> for Result<T, std::io::Error> {
    fn step(self, step: &str) -> Result<T, LaunchFailure> {
        self.map_err(|error| refused(step, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}

/// A failure with the kernel's error.
pub(crate) fn refused(step: &str, errno: Errno) -> LaunchFailure {
    LaunchFailure {
        step: step.to_owned(),
        errno: errno.raw_os_error(),
        message: std::io::Error::from(errno).to_string(),
    }
}

/// A failure without an error of the kernel.
pub(crate) fn wrong(step: &str, message: impl Into<String>) -> LaunchFailure {
    LaunchFailure {
        step: step.to_owned(),
        errno: 0,
        message: message.into(),
    }
}
