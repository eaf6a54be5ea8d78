//! Documents of registries and archives: names, manifests, configurations, challenges. None may make
//! a reader panic, and a name that was read and written is read as the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stacyvm_image::{Digest, Platform, Reference, fuzzing};

fuzz_target!(|data: &[u8]| {
    let _ = fuzzing::read_manifest(data);
    let _ = fuzzing::read_config(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    fuzzing::read_challenge(text);
    let _ = text.parse::<Platform>();
    if let Some(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(reference) = Reference::parse(text) {
        for form in [reference.canonical(), reference.familiar()] {
            let again = Reference::parse(&form).expect("a name is read again");
            assert_eq!(again.canonical(), reference.canonical());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
        assert!(reference.canonical().chars().all(plain));
        assert!(
            !reference
                .repository()
                .split('/')
                .any(|part| part.starts_with('.'))
        );
    }
});
