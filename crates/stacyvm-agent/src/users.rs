//! The account that a command runs as, from the sandbox's own `/etc/passwd` and `/etc/group`.
//!
//! This module parses both files and never asks the name service. It reads a file again only when
//! the file has changed.

use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat};
use stacyvm_proto::message::{Code, Failure};
use stacyvm_sys::resolve;

use crate::replies::failure;

/// How many bytes of an account file are read; the rest is ignored.
pub(crate) const MAX_ACCOUNT_FILE: u64 = 1024 * 1024;

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Login name; none when no line names the number.
    pub(crate) name: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the primary one included, without repetition.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
    pub(crate) shell: Option<String>,
}

/// The account files as they were last read.
#[derive(Debug, Default)]
pub(crate) struct Users {
    passwd: AccountFile,
    group: AccountFile,
}

#[derive(Debug, Default)]
struct AccountFile {
    /// Inode, size and modification time of the version that was read.
    stamp: Option<(u64, i64, i64, u64)>,
    text: String,
}

impl AccountFile {
    /// Reads the file again if it has changed; one that is missing reads as empty.
    fn refresh(&mut self, root: BorrowedFd<'_>, path: &str) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(file) = resolve::open(root, path, flags, ResolveFlags::IN_ROOT) else {
            *self = Self::default();
            return;
        };
        let stamp = fstat(&file)
            .ok()
            .map(|stat| (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec));
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        let mut bytes = Vec::new();
        let read = std::fs::File::from(file)
            .take(MAX_ACCOUNT_FILE)
            .read_to_end(&mut bytes);
        *self = Self {
            stamp: read.ok().and(stamp),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        };
    }
}

impl Users {
    /// Finds `name`, `uid` or `uid:gid`. A number without a line in the file is accepted.
    pub(crate) fn find(&mut self, root: BorrowedFd<'_>, wanted: &str) -> Result<Account, Failure> {
        self.passwd.refresh(root, "etc/passwd");
        self.group.refresh(root, "etc/group");
        find(&self.passwd.text, &self.group.text, wanted)
    }

    /// The account of a number, also if the file has no line for it.
    pub(crate) fn of_number(&mut self, root: BorrowedFd<'_>, uid: u32, gid: u32) -> Account {
        self.passwd.refresh(root, "etc/passwd");
        self.group.refresh(root, "etc/group");
        let line = accounts(&self.passwd.text).find(|account| account.uid == uid);
        let mut account = line.unwrap_or_else(|| unnamed(uid, gid));
        account.gid = gid;
        account.groups = groups(&self.group.text, &account);
        account
    }
}

fn find(passwd: &str, group: &str, wanted: &str) -> Result<Account, Failure> {
    let (user, wanted_gid) = match wanted.split_once(':') {
        Some((user, gid)) => (user, Some(gid)),
        None => (wanted, None),
    };
    let number = user.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    let named = accounts(passwd).find(|account| account.name.as_deref() == Some(user));
    let numbered = || accounts(passwd).find(|account| Some(account.uid) == number);
    let mut account = match (named.or_else(numbered), number) {
        (Some(account), _) => account,
        (None, Some(uid)) => unnamed(uid, uid),
        (None, None) => {
            let text = format!("user {wanted:?} does not exist in the sandbox");
            return Err(failure(Code::NotFound, text));
        }
    };
    if let Some(gid) = wanted_gid {
        account.gid = gid
            .parse()
            .ok()
            .filter(|gid| *gid != u32::MAX)
            .ok_or_else(|| failure(Code::Invalid, format!("{gid:?} is no group number")))?;
    }
    account.groups = groups(group, &account);
    Ok(account)
}

/// The numbers of `user`, `uid`, `user:group` or `uid:gid` by the account files below `root`, as the
/// maker of an image names a user; none when there is no such user or group. `root` is 0 even
/// without a line for it, and a number without a line is accepted.
pub fn user_numbers(root: &Path, wanted: &str) -> Option<(u32, u32)> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, directory, Mode::empty()).ok()?;
    let mut users = Users::default();
    users.passwd.refresh(root.as_fd(), "etc/passwd");
    users.group.refresh(root.as_fd(), "etc/group");
    numbers(&users.passwd.text, &users.group.text, wanted)
}

fn numbers(passwd: &str, group: &str, wanted: &str) -> Option<(u32, u32)> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let account = match find(passwd, "", user) {
        Ok(account) => account,
        Err(_) if user == "root" => unnamed(0, 0),
        Err(_) => return None,
    };
    let gid = match wanted_group {
        Some(wanted) => group_number(group, wanted)?,
        None => account.gid,
    };
    Some((account.uid, gid))
}

/// A group by its name in a group(5) file, else by its number.
fn group_number(text: &str, wanted: &str) -> Option<u32> {
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok())?
    });
    named.or_else(|| wanted.parse().ok().filter(|gid| *gid != u32::MAX))
}

fn unnamed(uid: u32, gid: u32) -> Account {
    Account {
        name: None,
        uid,
        gid,
        groups: vec![gid],
        home: None,
        shell: None,
    }
}

/// The well-formed lines of a passwd(5) file.
fn accounts(text: &str) -> impl Iterator<Item = Account> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let filled =
            |field: Option<&str>| field.filter(|field| !field.is_empty()).map(str::to_owned);
        Some(Account {
            name: Some(name.to_owned()),
            uid,
            gid,
            groups: Vec::new(),
            home: filled(fields.nth(1)),
            shell: filled(fields.next()),
        })
    })
}

/// An account's groups by a group(5) file, the primary one first.
fn groups(text: &str, account: &Account) -> Vec<u32> {
    let mut groups = vec![account.gid];
    let Some(name) = &account.name else {
        return groups;
    };
    for line in text.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(gid), Some(members)) = (fields.next(), fields.next()) else {
            continue;
        };
        if let Ok(gid) = gid.parse()
            && members.split(',').any(|member| member.trim() == name)
            && !groups.contains(&gid)
            && groups.len() < 64
        {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n+::::::\nuser:x:1000:1000::/home/user:/bin/sh\n1001:x:7:7::/:\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:user,other\nuser:x:1000:\nvideo:x:44:other\n";

    #[test]
    fn names_numbers_and_groups_are_found() {
        let user = find(PASSWD, GROUP, "user").unwrap();
        assert_eq!(
            (user.uid, user.gid, user.home.as_deref()),
            (1000, 1000, Some("/home/user"))
        );
        assert_eq!(user.groups, [1000, 29]);
        assert_eq!(find(PASSWD, GROUP, "1000").unwrap(), user);
        let other_group = find(PASSWD, GROUP, "user:44").unwrap();
        assert_eq!(
            (other_group.gid, &other_group.groups[..]),
            (44, &[44, 29][..])
        );
        // A name made of digits wins over the number.
        assert_eq!(find(PASSWD, GROUP, "1001").unwrap().uid, 7);
        let stranger = find(PASSWD, GROUP, "4242").unwrap();
        assert_eq!(
            (stranger.name, stranger.uid, stranger.gid),
            (None, 4242, 4242)
        );
    }

    #[test]
    fn an_image_names_users_and_groups_as_its_maker_likes() {
        for (wanted, expected) in [
            ("root", Some((0, 0))),
            ("user", Some((1000, 1000))),
            ("user:audio", Some((1000, 29))),
            ("user:7", Some((1000, 7))),
            ("user:", Some((1000, 1000))),
            ("1000:video", Some((1000, 44))),
            ("4242", Some((4242, 4242))),
            ("4242:1", Some((4242, 1))),
            ("nobody-here", None),
            ("user:nobody-here", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(numbers(PASSWD, GROUP, wanted), expected, "{wanted:?}");
        }
        assert_eq!(numbers("", "", "root"), Some((0, 0)));
        assert_eq!(numbers("", "", "root:root"), None);
    }

    #[test]
    fn strangers_by_name_and_nonsense_are_refused() {
        for (wanted, code) in [
            ("nobody-here", Code::NotFound),
            ("", Code::NotFound),
            ("user:staff", Code::Invalid),
            ("4294967295", Code::NotFound),
            ("-1", Code::NotFound),
        ] {
            let refused = find(PASSWD, GROUP, wanted).unwrap_err();
            assert_eq!(refused.code(), code, "{wanted:?}");
        }
    }
}
