//! Checks of what clients send that do not depend on any backend. Sizes are bounded by what a
//! Linux process can be given, so that a request fails here with its name instead of inside.

use std::collections::BTreeMap;

use stacyvm_types::Vcpus;

use crate::Error;

const METADATA_KEYS: usize = 64;
const METADATA_KEY_BYTES: usize = 256;
const METADATA_VALUE_BYTES: usize = 4096;
const ENV_VARIABLES: usize = 512;
const ENV_NAME_BYTES: usize = 256;
const ENV_TOTAL_BYTES: usize = 1024 * 1024;
/// The kernel's bound of one argument or variable, its end mark included (`MAX_ARG_STRLEN`).
const STRING_BYTES: usize = 128 * 1024;
const PATH_BYTES: usize = 4096;
const USER_BYTES: usize = 64;
const KEY_BYTES: usize = 255;
const IMAGE_BYTES: usize = 4096;

/// More memory than any machine has, MiB; keeps later arithmetic from overflowing.
pub(crate) const MEMORY_BOUND: i64 = 16 * 1024 * 1024;
/// More disk than any machine has, MiB.
pub(crate) const DISK_BOUND: i64 = 1024 * 1024 * 1024;
/// The smallest disk that a file system fits on, MiB.
const MIN_DISK: u64 = 16;

/// A number of cores; 0 stands for none said.
pub(crate) fn vcpus(name: &str, asked: f64) -> Result<Vcpus, Error> {
    Vcpus::from_cores(asked).map_err(|error| Error::BadRequest(format!("{name} {error}")))
}

/// A size of a disk that is not 0, MiB.
pub(crate) fn disk(name: &str, asked: u64) -> Result<(), Error> {
    if asked < MIN_DISK {
        return bad(format!("{name} must be at least {MIN_DISK}"));
    }
    Ok(())
}

pub(crate) fn metadata(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    if labels.len() > METADATA_KEYS {
        return bad(format!("metadata has more than {METADATA_KEYS} keys"));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > METADATA_KEY_BYTES {
            return bad(format!(
                "a metadata key has 1 to {METADATA_KEY_BYTES} bytes"
            ));
        }
        if value.len() > METADATA_VALUE_BYTES {
            return bad(format!(
                "the value of metadata key {:?} is longer than {METADATA_VALUE_BYTES} bytes",
                shown(key)
            ));
        }
    }
    Ok(())
}

/// Errors name the variable, never its value.
pub(crate) fn env(variables: &BTreeMap<String, String>) -> Result<(), Error> {
    if variables.len() > ENV_VARIABLES {
        return bad(format!("env has more than {ENV_VARIABLES} variables"));
    }
    let mut total = 0;
    for (name, value) in variables {
        if name.is_empty() || name.len() > ENV_NAME_BYTES || name.contains(['=', '\0']) {
            return bad(format!(
                "invalid env name {:?}: it has 1 to {ENV_NAME_BYTES} bytes and no \"=\" or NUL",
                shown(name)
            ));
        }
        if value.contains('\0') {
            return bad(format!("the value of env {:?} contains NUL", shown(name)));
        }
        let bytes = name.len() + value.len() + 2;
        if bytes > STRING_BYTES {
            return bad(format!(
                "the value of env {:?} is longer than the {STRING_BYTES} bytes that Linux allows",
                shown(name)
            ));
        }
        total += bytes;
    }
    if total > ENV_TOTAL_BYTES {
        return bad(format!("env is larger than {ENV_TOTAL_BYTES} bytes"));
    }
    Ok(())
}

/// A name or number of the sandbox: `name`, `uid`, or `uid:gid`.
pub(crate) fn user(user: &str) -> Result<(), Error> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    if user.len() > USER_BYTES || !part(name) || !group.is_none_or(part) {
        return bad(format!(
            "invalid user {:?}: name a user of the sandbox, a uid, or uid:gid",
            shown(user)
        ));
    }
    Ok(())
}

pub(crate) fn workdir(path: &str) -> Result<(), Error> {
    if path.len() >= PATH_BYTES || path.contains('\0') {
        return bad(format!(
            "invalid workdir: it has fewer than {PATH_BYTES} bytes and no NUL"
        ));
    }
    Ok(())
}

pub(crate) fn image(name: &str) -> Result<(), Error> {
    if name.len() > IMAGE_BYTES || name.contains(char::is_control) {
        return bad(format!(
            "invalid image: it has at most {IMAGE_BYTES} bytes and no control character"
        ));
    }
    Ok(())
}

pub(crate) fn idempotency_key(key: &str) -> Result<(), Error> {
    if key.is_empty() || key.len() > KEY_BYTES || !key.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return bad(format!(
            "an Idempotency-Key has 1 to {KEY_BYTES} printable ASCII characters"
        ));
    }
    Ok(())
}

pub(crate) fn argument(text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return bad("the command contains NUL");
    }
    if text.len() >= STRING_BYTES {
        return bad(format!(
            "the command or one argument has {STRING_BYTES} bytes or more, which Linux does not \
             allow; write it to a file, or pass it as stdin"
        ));
    }
    Ok(())
}

/// The beginning of what a client sent, for an error message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

pub(crate) fn bad<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::BadRequest(message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: impl Into<String>, value: impl Into<String>) -> BTreeMap<String, String> {
        BTreeMap::from([(key.into(), value.into())])
    }

    fn many(count: usize) -> BTreeMap<String, String> {
        (0..count)
            .map(|n| (format!("k{n}"), String::new()))
            .collect()
    }

    #[test]
    fn metadata_has_the_documented_bounds() {
        assert!(metadata(&many(64)).is_ok());
        assert!(metadata(&one("k".repeat(256), "v".repeat(4096))).is_ok());
        for wrong in [
            many(65),
            one("", "v"),
            one("k".repeat(257), "v"),
            one("k", "v".repeat(4097)),
        ] {
            assert!(matches!(metadata(&wrong), Err(Error::BadRequest(_))));
        }
    }

    #[test]
    fn env_is_what_a_process_can_be_given_and_values_stay_out_of_errors() {
        assert!(env(&one("PATH", "/bin")).is_ok());
        assert!(env(&one("WITH-DASH", "x=y")).is_ok());
        for wrong in [
            many(513),
            one("", "secret"),
            one("A=B", "secret"),
            one("A\0", "secret"),
            one("A", "secret\0"),
            one("A", "secret".repeat(22_000)),
            (0..12)
                .map(|n| (format!("k{n}"), "secret".repeat(20_000)))
                .collect(),
        ] {
            let error = env(&wrong).unwrap_err();
            assert!(matches!(error, Error::BadRequest(_)));
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn users_are_names_or_numbers() {
        for right in ["root", "user", "1000", "1000:1000", "www-data", "a.b_c"] {
            assert!(user(right).is_ok(), "{right}");
        }
        for wrong in ["", ":", "a:", ":1", "a b", "../x", "-x", "a:b:c", "a\n"] {
            assert!(user(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_printable() {
        assert!(idempotency_key("3f0e-1").is_ok());
        for wrong in ["", "é", "a\nb", "a".repeat(256).as_str()] {
            assert!(idempotency_key(wrong).is_err(), "{wrong:?}");
        }
    }
}
