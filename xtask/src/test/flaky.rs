//! Tests that passed at their second try only: each is a bug to be mended, here or in the product.

/// A line for each of them.
pub(super) fn summary(report: &str) -> String {
    let line = |name| format!("FLAKY {name}: it failed, and passed when it was tried again\n");
    names(report).into_iter().map(line).collect()
}

/// Names of the test cases of a JUnit report that hold a `flakyFailure`, as nextest writes them: one
/// element a line.
fn names(report: &str) -> Vec<&str> {
    let mut current = None;
    let mut found = Vec::new();
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("<testcase name=\"") {
            current = rest.split('"').next();
        }
        if line.contains("<flakyFailure") {
            found.extend(current.take());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn only_tests_that_needed_another_try_are_flaky() {
        let report = r#"<testsuite name="a">
            <testcase name="good" classname="a"/>
            <testcase name="shaky" classname="a">
                <flakyFailure timestamp="t" type="test failure">
                </flakyFailure>
            </testcase>
            <testcase name="bad" classname="a">
                <failure type="test failure"/>
            </testcase>
        </testsuite>"#;
        assert_eq!(names(report), ["shaky"]);
    }
}
