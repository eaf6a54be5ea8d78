//! The known name nearest to a misspelled one.

/// The known name nearest to `given`, when it is near enough to be worth naming.
pub(crate) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (given.chars().count() / 3).max(2);
    known
        .map(|name| (distance(given, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many single-character insertions, deletions, replacements and swaps of neighbours lie
/// between two texts (the optimal string alignment distance).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let replaced = last[column] + usize::from(from != to);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0
                && column > 0
                && *from == right[column - 1]
                && left[row - 1] == *to
                && before_last[column - 1] + 1 < best;
            if swapped {
                best = before_last[column - 1] + 1;
            }
            current.push(best);
        }
        before_last = last;
        last = current;
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_edits() {
        for (left, right, edits) in [
            ("", "abc", 3),
            ("port", "prot", 1),
            ("port", "port", 0),
            ("loging", "logging", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), edits, "{left} {right}");
        }
    }

    #[test]
    fn names_only_what_is_near() {
        let known = ["server.port", "server.host", "logging.level"];
        assert_eq!(
            nearest("server.prot", known.into_iter()),
            Some("server.port")
        );
        assert_eq!(nearest("kubernetes.namespace", known.into_iter()), None);
    }
}
