//! The pause between two attempts of a request.

use std::thread;
use std::time::{Duration, Instant};

use crate::{Cancel, ImageError};

/// The longest pause between two attempts.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Waits before the next attempt, longer each time and by chance, so that many clients do not come at
/// once.
pub(crate) fn wait_before_retry(
    cancel: &Cancel,
    tried: u32,
    wanted: Option<Duration>,
) -> Result<(), ImageError> {
    let mut random = [0_u8; 1];
    // Without random bytes the pause is as good.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let step = Duration::from_millis(200 << tried.min(6)) / 2;
    let pause = step + step * u32::from(random[0]) / 255;
    let until = Instant::now() + wanted.unwrap_or(pause).min(MAX_RETRY_PAUSE);
    loop {
        cancel.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
