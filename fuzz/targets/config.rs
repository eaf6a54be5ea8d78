//! Configuration files: read or refused, and no error or debug print shows a secret of them.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stacyvm_config::Loader;

/// A value that cannot be a key, so that there is always an error.
const KEY: &str = "hunter 2";

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("config-{}.yaml", std::process::id())));

fuzz_target!(|text: &[u8]| {
    std::fs::write(FILE.as_path(), text).expect("the directory is ours");
    if let Ok(loaded) = Loader::empty().file(FILE.as_path()).load() {
        for entry in loaded.entries() {
            assert!(!entry.key.is_empty());
        }
        loaded.data_dir(false);
    }
    let variables = vec![("STACYVM_AUTH_API_KEY".to_owned(), KEY.to_owned())];
    let refused = Loader::empty().file(FILE.as_path()).variables(variables);
    let error = refused.load().expect_err("the key has a blank");
    let quotes_itself = String::from_utf8_lossy(text).contains(KEY);
    assert!(quotes_itself || !error.to_string().contains(KEY), "{error}");
});
