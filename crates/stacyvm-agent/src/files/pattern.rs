//! Patterns of file names: `*`, `?`, `[…]`, `{a,b}`.
//!
//! Owns the expansion of braces and the matching of one part of a path. Written by hand because
//! a regular-expression engine would be a good part of the agent's size. The meaning is that of
//! the crate `globset`, which the tests compare it with.

use super::FileError;

/// How many alternatives the braces of one pattern may stand for.
const MAX_ALTERNATIVES: usize = 1024;

/// The pattern without braces: one for each choice.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, FileError> {
    let mut waiting = vec![pattern.to_owned()];
    let mut done = Vec::new();
    while let Some(next) = waiting.pop() {
        match split_braces(&next)? {
            None => done.push(next),
            Some((before, choices, after)) => {
                for choice in choices {
                    waiting.push(format!("{before}{choice}{after}"));
                }
            }
        }
        if waiting.len() + done.len() > MAX_ALTERNATIVES {
            return Err(invalid(pattern, "it has too many alternatives"));
        }
    }
    Ok(done)
}

type Braces<'a> = (&'a str, Vec<&'a str>, &'a str);

/// Splits at the first braces outside a class; none when there are none.
fn split_braces(pattern: &str) -> Result<Option<Braces<'_>>, FileError> {
    let mut start = None;
    let mut depth = 0_usize;
    let mut cuts = Vec::new();
    let mut characters = pattern.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '[' => skip_class(pattern, at, &mut characters)?,
            '{' => {
                depth += 1;
                if depth == 1 {
                    start = Some(at);
                }
            }
            ',' if depth == 1 => cuts.push(at),
            '}' if depth == 0 => return Err(invalid(pattern, "a } has no {")),
            '}' => {
                depth -= 1;
                if let (0, Some(start)) = (depth, start) {
                    let mut choices = Vec::new();
                    let mut from = start + 1;
                    for cut in cuts.into_iter().chain(std::iter::once(at)) {
                        choices.push(&pattern[from..cut]);
                        from = cut + 1;
                    }
                    return Ok(Some((&pattern[..start], choices, &pattern[at + 1..])));
                }
            }
            _ => {}
        }
    }
    match depth {
        0 => Ok(None),
        _ => Err(invalid(pattern, "a { has no }")),
    }
}

fn skip_class(
    pattern: &str,
    start: usize,
    characters: &mut std::iter::Peekable<std::str::CharIndices<'_>>,
) -> Result<(), FileError> {
    let length = class_length(&pattern[start..]).ok_or_else(|| invalid(pattern, "a [ has no ]"))?;
    while characters
        .peek()
        .is_some_and(|(at, _)| *at < start + length)
    {
        characters.next();
    }
    Ok(())
}

/// The length in bytes of the class at the start of `text`, its brackets included.
fn class_length(text: &str) -> Option<usize> {
    let mut first = true;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '!' | '^' if at == 1 => continue,
            ']' if !first => return Some(at + 1),
            '/' => return None,
            _ => first = false,
        }
    }
    None
}

/// Whether `part`, without its escapes, is a plain name: no pattern.
pub(super) fn literal(part: &str) -> Option<String> {
    let mut name = String::new();
    let mut characters = part.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' | '?' | '[' => return None,
            '\\' => name.push(characters.next()?),
            other => name.push(other),
        }
    }
    Some(name)
}

/// One element of a part.
#[derive(Debug)]
enum Token {
    Exactly(char),
    Any,
    AnyNumber,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// One part of a path, ready to be matched.
#[derive(Debug)]
pub(super) struct Matcher(Vec<Token>);

impl Matcher {
    /// Reads one part (no `/`, no braces).
    pub(super) fn new(part: &str) -> Result<Self, FileError> {
        let mut tokens = Vec::new();
        let mut rest = part;
        while let Some(character) = rest.chars().next() {
            let mut taken = character.len_utf8();
            match character {
                '*' => {
                    if !matches!(tokens.last(), Some(Token::AnyNumber)) {
                        tokens.push(Token::AnyNumber);
                    }
                }
                '?' => tokens.push(Token::Any),
                '[' => {
                    taken = class_length(rest).ok_or_else(|| invalid(part, "a [ has no ]"))?;
                    tokens.push(read_class(part, &rest[1..taken - 1])?);
                }
                '\\' => {
                    let escaped = rest[1..]
                        .chars()
                        .next()
                        .ok_or_else(|| invalid(part, "nothing follows the \\"))?;
                    taken += escaped.len_utf8();
                    tokens.push(Token::Exactly(escaped));
                }
                other => tokens.push(Token::Exactly(other)),
            }
            rest = &rest[taken..];
        }
        Ok(Self(tokens))
    }

    /// Whether the whole `name` matches. Takes at most the product of both lengths in steps.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut token, mut at) = (0, 0);
        // Where to go on when what follows the last `*` does not fit: it takes one more.
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() {
            let fits = match self.0.get(token) {
                Some(Token::AnyNumber) => {
                    retry = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(Token::Any) => true,
                Some(Token::Exactly(wanted)) => *wanted == name[at],
                Some(Token::Class { negated, ranges }) => {
                    let inside = ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&name[at]));
                    inside != *negated
                }
                None => false,
            };
            if fits {
                token += 1;
                at += 1;
            } else if let Some((after, taken)) = retry {
                retry = Some((after, taken + 1));
                token = after;
                at = taken + 1;
            } else {
                return false;
            }
        }
        self.0[token..]
            .iter()
            .all(|left| matches!(left, Token::AnyNumber))
    }
}

fn read_class(part: &str, inside: &str) -> Result<Token, FileError> {
    let (negated, members) = match inside.strip_prefix(['!', '^']) {
        Some(members) => (true, members),
        None => (false, inside),
    };
    let members: Vec<char> = members.chars().collect();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        if at + 2 < members.len() && members[at + 1] == '-' {
            if members[at] > members[at + 2] {
                return Err(invalid(part, "a range in [] is the wrong way round"));
            }
            ranges.push((members[at], members[at + 2]));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Ok(Token::Class { negated, ranges })
}

fn invalid(pattern: &str, reason: &str) -> FileError {
    FileError::Invalid(format!(
        "invalid pattern {}: {reason}",
        super::error::shortened(pattern)
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn braces_are_every_choice() {
        let mut all = expand("/a/{b,c{d,e}}/*.{rs,t[,]}").unwrap();
        all.sort();
        assert_eq!(
            all,
            [
                "/a/b/*.rs",
                "/a/b/*.t[,]",
                "/a/cd/*.rs",
                "/a/cd/*.t[,]",
                "/a/ce/*.rs",
                "/a/ce/*.t[,]"
            ]
        );
        assert_eq!(expand("a\\{b,c\\}").unwrap(), ["a\\{b,c\\}"]);
        for wrong in ["{a", "a}", "[a", "{a,[b}"] {
            assert!(
                matches!(expand(wrong), Err(FileError::Invalid(_))),
                "{wrong}"
            );
        }
        let bomb = "{a,b}".repeat(40);
        assert!(matches!(expand(&bomb), Err(FileError::Invalid(_))));
    }

    #[test]
    fn a_hard_pattern_takes_no_long_time() {
        let pattern = Matcher::new(&"*a".repeat(60)).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(250))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_part_matches_as_globset_says(
            part in "[ab*?\\\\]{0,6}|[ab*?]{0,3}\\[!?[ab]{1,2}(-[ab])?\\][ab*]{0,3}",
            name in "[abc]{0,7}",
        ) {
            let theirs = globset::GlobBuilder::new(&part)
                .literal_separator(true)
                .backslash_escape(true)
                .build();
            let (Ok(ours), Ok(theirs)) = (Matcher::new(&part), theirs) else { return Ok(()) };
            // A part `**` is none: the walk gives it its meaning.
            prop_assume!(!part.contains("**"));
            prop_assert_eq!(
                ours.matches(&name),
                theirs.compile_matcher().is_match(&name),
                "{} against {}", part, name
            );
        }
    }
}
