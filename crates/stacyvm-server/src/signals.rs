//! Signals by name and number.

/// Linux names and numbers that are the same on every machine we run on; see signal(7).
const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of `SIGINT`, `int` or `2`; none when it is no signal.
pub(crate) fn number(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return is_signal(number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// Whether a signal has a name; the meaning of real-time signals is up to the C library.
fn is_signal(number: i32) -> bool {
    (1..=31).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_and_numbers_are_understood() {
        for (text, expected) in [
            ("SIGINT", Some(2)),
            ("INT", Some(2)),
            ("sigterm", Some(15)),
            ("9", Some(9)),
            ("31", Some(31)),
            ("32", None),
            ("64", None),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("SIG", None),
            ("", None),
            ("SIGNOTHING", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
