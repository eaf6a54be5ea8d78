//! Durations: one that was read and written is read as the same duration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_types::GoDuration;

fuzz_target!(|text: &str| {
    let Ok(duration) = text.parse::<GoDuration>() else {
        return;
    };
    let written = duration.to_string();
    assert_eq!(written.parse(), Ok(duration), "{text:?} {written:?}");
    // What clients print is what they read: no sign but a leading one, no blanks.
    assert!(written.bytes().all(|byte| byte > b' '), "{written:?}");
    assert_eq!(duration.is_positive(), duration.nanos() > 0);
});
