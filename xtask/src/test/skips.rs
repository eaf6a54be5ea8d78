//! What the run's end says about skipped tests.
//!
//! A test skips through `stacyvm_testing::skip`, which appends a line to the file that the run names
//! to it, and prints the same line to standard error, which nextest keeps in its report. Both are
//! read, so that a test without access to the file counts too; the same line counts once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the line about a skip begins with.
const MARK: &str = "SKIP ";

/// Every skipped test with its reasons, and how many there are. `notes` is the text of the file,
/// `report` the JUnit report of nextest.
pub(super) fn summary(notes: &str, report: &str) -> String {
    let mut skips: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let report = unescape(report);
    for (test, reason) in notes.lines().chain(report.lines()).filter_map(skip_in) {
        skips.entry(test).or_default().insert(reason);
    }
    let mut text = String::new();
    for (test, reasons) in &skips {
        for reason in reasons {
            let _ = writeln!(text, "{MARK}{test}: {reason}");
        }
    }
    let _ = writeln!(text, "    {} tests skipped, or a part of them", skips.len());
    text
}

/// The test and the reason of a line about a skip. In a report the line may follow an opening tag and
/// be followed by a closing one.
fn skip_in(line: &str) -> Option<(&str, &str)> {
    let line = line.split("</system-").next()?;
    let start = line.strip_prefix(MARK).or_else(|| {
        let (before, rest) = line.split_once(MARK)?;
        before.ends_with('>').then_some(rest)
    })?;
    start.split_once(": ")
}

/// The text of an XML document with its entities replaced.
fn unescape(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (entity, character)| {
        text.replace(entity, character)
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use stacyvm_testing::skip_line;

    use super::*;

    #[test]
    fn every_skipped_test_is_listed_with_its_reasons_and_counted_once() {
        let one = skip_line("native::limits::swap", "no swap & no \"accounting\"");
        let two = skip_line("native::limits::swap", "no cpu controller");
        let three = skip_line("egress::life", "needs root");
        let notes = format!("{one}\n{two}\n");
        // As nextest writes it, with one line that stands in the file too.
        let report = format!(
            "<testcase name=\"life\" classname=\"stacyvm-egress::egress\">\n\
             <system-out>\nrunning 1 test\nnot SKIP this: no\n</system-out>\n\
             <system-err>{three}</system-err>\n</testcase>\n\
             <testcase name=\"limits::swap\"><system-err>{}\n</system-err></testcase>\n",
            one.replace('&', "&amp;").replace('"', "&quot;")
        );
        assert_eq!(
            summary(&notes, &report),
            format!("{three}\n{two}\n{one}\n    2 tests skipped, or a part of them\n")
        );
    }

    #[test]
    fn a_run_without_skips_says_so() {
        assert_eq!(summary("", ""), "    0 tests skipped, or a part of them\n");
    }

    /// A line that is printed by hand is in no file, and may not be counted.
    #[test]
    fn tests_skip_through_the_one_function() {
        let own = [
            "crates/stacyvm-testing/src/skip.rs",
            "crates/stacyvm-testing/tests/skips.rs",
            "tests/e2e/python/conftest.py",
        ];
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut by_hand = Vec::new();
        for place in ["crates", "tests"] {
            sources(&root.join(place), &mut |path, text| {
                let is_own = own.iter().any(|name| path.ends_with(name));
                if text.contains("\"SKIP") && !is_own {
                    by_hand.push(path.to_owned());
                }
            });
        }
        assert_eq!(by_hand, Vec::<PathBuf>::new(), "use stacyvm_testing::skip");
    }

    fn sources(directory: &Path, visit: &mut dyn FnMut(&Path, &str)) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, visit);
            } else if path
                .extension()
                .is_some_and(|kind| kind == "rs" || kind == "py")
            {
                visit(&path, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}
