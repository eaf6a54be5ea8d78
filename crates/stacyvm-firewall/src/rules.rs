//! The parts of rules that every provider's table contains.
//!
//! What is rejected is answered at once with a reset or an ICMP error, so that no program waits for a
//! timeout.

use std::fmt::Write as _;

/// How many connections one sandbox may have open at once. The host's connection table, which all
/// sandboxes share, counts them.
const MAX_CONNECTIONS: u32 = 4096;

/// Rejects packets to closed ranges; packets to a range that the operator has opened get the
/// verdicts of `allowed`, one rule each.
pub fn judge_ranges(text: &mut String, allowed: &[&str]) {
    for (set, is_open) in [
        ("metadata", false),
        ("denied", false),
        ("allowed", true),
        ("private", false),
    ] {
        for (family, version) in [("ip", 4), ("ip6", 6)] {
            let matching = format!("{family} daddr @{set}{version} ");
            if !is_open {
                refuse(text, &matching);
                continue;
            }
            for verdict in allowed {
                let _ = writeln!(text, "  {matching}{verdict}");
            }
        }
    }
}

/// Rejects packets that match an expression, with an answer to the sender. `matching` is empty or
/// ends with a space.
pub fn refuse(text: &mut String, matching: &str) {
    let _ = writeln!(text, "  {matching}meta l4proto tcp reject with tcp reset");
    let _ = writeln!(text, "  {matching}reject with icmpx admin-prohibited");
}

/// Rejects new connections of a sandbox that has too many open ones.
pub fn count_connections(text: &mut String) {
    for (family, version) in [("ip", 4), ("ip6", 6)] {
        let _ = writeln!(
            text,
            "  ct state new add @connections{version} {{ {family} saddr ct count over {MAX_CONNECTIONS} }} reject with icmpx admin-prohibited"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut text = String::new();
        write(&mut text);
        text
    }

    #[test]
    fn a_refusal_resets_tcp_and_answers_everything_else() {
        assert_eq!(
            written(|text| refuse(text, "ip daddr 10.0.0.1 ")),
            "  ip daddr 10.0.0.1 meta l4proto tcp reject with tcp reset
  ip daddr 10.0.0.1 reject with icmpx admin-prohibited
"
        );
        assert_eq!(
            written(|text| refuse(text, "")),
            "  meta l4proto tcp reject with tcp reset
  reject with icmpx admin-prohibited
"
        );
    }

    #[test]
    fn ranges_are_judged_from_the_strictest_to_the_widest() {
        let text = written(|text| judge_ranges(text, &["jump counted", "accept"]));
        let rejected = |matching: &str| written(|text| refuse(text, &format!("{matching} ")));
        let expected = [
            rejected("ip daddr @metadata4"),
            rejected("ip6 daddr @metadata6"),
            rejected("ip daddr @denied4"),
            rejected("ip6 daddr @denied6"),
            "  ip daddr @allowed4 jump counted\n  ip daddr @allowed4 accept\n".to_owned(),
            "  ip6 daddr @allowed6 jump counted\n  ip6 daddr @allowed6 accept\n".to_owned(),
            rejected("ip daddr @private4"),
            rejected("ip6 daddr @private6"),
        ];
        assert_eq!(text, expected.concat());
    }

    #[test]
    fn without_a_verdict_an_opened_range_has_no_rule() {
        assert!(!written(|text| judge_ranges(text, &[])).contains("allowed"));
    }

    #[test]
    fn new_connections_are_counted_for_each_sender_and_both_versions() {
        let rule = |version: u8, family: &str| {
            format!(
                "  ct state new add @connections{version} {{ {family} saddr ct count over 4096 }} reject with icmpx admin-prohibited\n"
            )
        };
        assert_eq!(written(count_connections), rule(4, "ip") + &rule(6, "ip6"),);
    }
}
