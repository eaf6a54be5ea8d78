//! Patterns of file names against names: every pattern is refused or matched, in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_agent::files::fuzzing::matches;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, name) = input;
    let found = matches(pattern, name);
    // A pattern without anything special is its own and only match.
    let special = |character: char| "*?[]{},\\/".contains(character);
    if let Some(found) = found
        && !pattern.contains(special)
    {
        assert_eq!(found, pattern == name);
    }
    if !name.contains('/') {
        assert_eq!(matches("*", name), Some(true));
    }
});
