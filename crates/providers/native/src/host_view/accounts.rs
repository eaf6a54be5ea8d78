//! The users and groups of a generated `/etc/passwd` and `/etc/group`.
//!
//! System accounts keep their names, because files under `/usr` belong to them; people of the
//! host do not appear, and no field but name and number is taken over.

use std::collections::BTreeMap;
use std::path::Path;

/// The sandbox's own user, on every image that we generate accounts for.
pub(crate) const USER_NAME: &str = "user";
/// Its number and that of its group.
pub(crate) const USER_ID: u32 = 1000;

const NOBODY: u32 = 65_534;

/// The text of `/etc/passwd` and `/etc/group`.
pub(super) struct Accounts {
    pub(super) passwd: String,
    pub(super) group: String,
}

impl Accounts {
    pub(super) fn of_host(host: &Path) -> Self {
        let shell = if host.join("bin/bash").exists() {
            "/bin/bash"
        } else {
            "/bin/sh"
        };
        let users = system_names(&host.join("etc/passwd"), NOBODY, "nobody");
        let groups = system_names(&host.join("etc/group"), NOBODY, "nogroup");

        let mut passwd = format!("root:x:0:0:root:/root:{shell}\n");
        for (id, (name, group)) in &users {
            let group = group.unwrap_or(*id);
            passwd.push_str(&format!(
                "{name}:x:{id}:{group}::/nonexistent:/usr/sbin/nologin\n"
            ));
        }
        passwd.push_str(&format!(
            "{USER_NAME}:x:{USER_ID}:{USER_ID}::/home/{USER_NAME}:{shell}\n"
        ));
        let mut group = "root:x:0:\n".to_owned();
        for (id, (name, _)) in &groups {
            group.push_str(&format!("{name}:x:{id}:\n"));
        }
        group.push_str(&format!("{USER_NAME}:x:{USER_ID}:\n"));
        Self { passwd, group }
    }
}

/// Names of the accounts that come with a system, by number; of a user also its group.
fn system_names(
    path: &Path,
    nobody: u32,
    nobody_name: &str,
) -> BTreeMap<u32, (String, Option<u32>)> {
    let mut names = BTreeMap::from([(nobody, (nobody_name.to_owned(), None))]);
    let text = std::fs::read(path).unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let group = fields.next().and_then(|group| group.parse().ok());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name == USER_NAME || !name.bytes().all(plain) {
            continue;
        }
        match id.parse() {
            Ok(id @ 1..USER_ID) => {
                let group = group.filter(|group| *group < USER_ID || *group == nobody);
                names.entry(id).or_insert_with(|| (name.to_owned(), group));
            }
            Ok(id) if id == nobody => {
                names.insert(id, (name.to_owned(), None));
            }
            _ => {}
        }
    }
    names
}
