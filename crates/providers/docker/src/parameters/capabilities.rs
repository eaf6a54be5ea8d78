//! The capabilities of a container: the agent's own, and those of commands that run as root.

use stacyvm_provider::ProviderError;

/// The names of all capabilities, each at its number; see capabilities(7).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The agent's own capabilities: CHOWN to prepare the sandbox, SETPCAP to drop from its commands what
/// is not in the mask, and the others to run commands as their users and to end them.
const AGENT: [&str; 5] = ["CHOWN", "KILL", "SETGID", "SETUID", "SETPCAP"];

/// Docker's default for containers, which the operator's lists change; see "Runtime privilege and
/// Linux capabilities" in Docker's manual.
const DOCKER_DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A set of capabilities, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// The capabilities of commands that run as root inside: Docker's default without `dropped`, and
    /// with `added`.
    ///
    /// # Errors
    /// `Invalid` for an unknown name, with the configuration's key.
    pub(crate) fn of_root(dropped: &[String], added: &[String]) -> Result<Self, ProviderError> {
        let dropped = Self::read("providers.docker.dropped_caps", dropped)?;
        let added = Self::read("providers.docker.added_caps", added)?;
        Ok(Self(Self::named(&DOCKER_DEFAULT).0 & !dropped.0 | added.0))
    }

    /// The mask for the agent's command line.
    pub(crate) fn hexadecimal(self) -> String {
        format!("{:x}", self.0)
    }

    /// Whether the set is empty.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The capabilities of the container: these and the agent's own.
    pub(crate) fn with_agents_own(self) -> Vec<String> {
        let all = self.0 | Self::named(&AGENT).0;
        let names = NAMES.iter().enumerate();
        names
            .filter(|(number, _)| all >> number & 1 == 1)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }

    fn read(key: &str, names: &[String]) -> Result<Self, ProviderError> {
        let mut set = 0;
        for text in names {
            let upper = text.trim().to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if name == "ALL" {
                set |= (1 << NAMES.len()) - 1;
                continue;
            }
            let number = NAMES.iter().position(|known| *known == name);
            let number = number.ok_or_else(|| {
                ProviderError::Invalid(format!(
                    "{key}: there is no capability {text:?}; hint: \"man 7 capabilities\" has the names, and ALL means every one"
                ))
            })?;
            set |= 1 << number;
        }
        Ok(Self(set))
    }

    fn named(names: &[&str]) -> Self {
        let bits = NAMES.iter().enumerate();
        let bits = bits.filter(|(_, name)| names.contains(name));
        Self(bits.fold(0, |set, (number, _)| set | 1 << number))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(dropped: &[&str], added: &[&str]) -> Result<Capabilities, ProviderError> {
        let own = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        Capabilities::of_root(&own(dropped), &own(added))
    }

    #[test]
    fn root_has_nothing_unless_it_is_given() {
        let none = of(&["ALL"], &[]).unwrap();
        assert!(none.is_empty());
        assert_eq!(none.with_agents_own(), AGENT);
        let one = of(&["all"], &["cap_net_raw"]).unwrap();
        assert_eq!(one.hexadecimal(), "2000");
        let given = one.with_agents_own();
        assert_eq!(
            given,
            ["CHOWN", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_RAW"]
        );
    }

    #[test]
    fn without_a_word_it_has_what_docker_gives() {
        // CapEff of a container of Docker 20.10: 00000000a80425fb.
        assert_eq!(of(&[], &[]).unwrap().hexadecimal(), "a80425fb");
        assert_eq!(of(&["NET_RAW"], &[]).unwrap().hexadecimal(), "a80405fb");
        assert_eq!(of(&[], &["SYS_PTRACE"]).unwrap().hexadecimal(), "a80c25fb");
        assert_eq!(of(&[], &["ALL"]).unwrap().hexadecimal(), "1ffffffffff");
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_its_key() {
        for wrong in ["", "CAP_", "ROOT", "NET RAW", "CAP_CAP_KILL"] {
            let error = of(&[], &[wrong]).unwrap_err().to_string();
            assert!(
                error.starts_with("providers.docker.added_caps: "),
                "{error}"
            );
            assert!(of(&[wrong], &[]).is_err());
        }
    }
}
