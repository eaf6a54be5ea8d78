//! The cgroup hierarchies of this machine, and the groups of the calling process in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where one hierarchy is mounted, and which of its groups the calling process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HierarchyMount {
    /// Mount point of the hierarchy, or of the part of it that is visible here.
    pub mount: PathBuf,
    /// Directory of the group that the calling process is in.
    pub own: PathBuf,
}

/// The hierarchies of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Hierarchies of version 1, by controller; a named one as `name=systemd`.
    pub v1: BTreeMap<String, HierarchyMount>,
    /// The hierarchy of version 2.
    pub unified: Option<HierarchyMount>,
}

impl Layout {
    /// Reads the calling process's mounts and groups; empty when there is no `/proc`.
    #[must_use]
    pub fn detect() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// The layout's name: `v1`, `v2`, `hybrid` or `none`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.v1.is_empty(), &self.unified) {
            (true, None) => "none",
            (true, Some(_)) => "v2",
            (false, None) => "v1",
            (false, Some(_)) => "hybrid",
        }
    }

    /// Parses the text of `/proc/self/mountinfo` and `/proc/self/cgroup`, see proc(5), cgroups(7).
    pub(crate) fn parse(mounts: &str, groups: &str) -> Self {
        let mut layout = Self::default();
        for line in mounts.lines() {
            let Some(mount) = Mount::parse(line) else {
                continue;
            };
            match mount.kind {
                "cgroup2" => {
                    let own = own_group(groups, |hierarchy, _| hierarchy == "0");
                    layout
                        .unified
                        .get_or_insert_with(|| mount.hierarchy_mount(own));
                }
                "cgroup" => {
                    for option in mount.options.split(',') {
                        if matches!(
                            option,
                            "rw" | "ro" | "xattr" | "noprefix" | "clone_children"
                        ) || option.starts_with("release_agent=")
                        {
                            continue;
                        }
                        let own = own_group(groups, |_, controllers| {
                            controllers.split(',').any(|one| one == option)
                        });
                        layout
                            .v1
                            .entry(option.to_owned())
                            .or_insert_with(|| mount.hierarchy_mount(own));
                    }
                }
                _ => {}
            }
        }
        layout
    }
}

/// One line of mountinfo, as far as it is needed.
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        Some(Self {
            root: unescape(before.next()?),
            point: unescape(before.next()?),
            kind: after.next()?,
            options: after.nth(1)?,
        })
    }

    fn hierarchy_mount(&self, own: &str) -> HierarchyMount {
        // The mount may show only a part of the hierarchy; the own group is named from its root.
        let below = Path::new(own)
            .strip_prefix(&self.root)
            .unwrap_or_else(|_| Path::new(""));
        HierarchyMount {
            own: self.point.join(below),
            mount: self.point.clone(),
        }
    }
}

fn own_group(groups: &str, matches: impl Fn(&str, &str) -> bool) -> &str {
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .find(|(hierarchy, controllers, _)| matches(hierarchy, controllers))
        .map_or("/", |(_, _, path)| path)
}

/// Decodes escapes of mountinfo, such as `\040` for a blank.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;

    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            plain.push(code);
            at += 4;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_version_2() {
        let layout = Layout::parse(
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/user.slice/user-1000.slice/app\n",
        );
        assert_eq!(layout.kind(), "v2");
        let unified = layout.unified.expect("it is there");
        assert_eq!(unified.mount, Path::new("/sys/fs/cgroup"));
        assert_eq!(
            unified.own,
            Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/app")
        );
    }

    #[test]
    fn reads_both_side_by_side_with_controllers_sharing_a_hierarchy() {
        let layout = Layout::parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             22 27 0:21 / /proc rw,relatime - proc proc rw\n",
            "4:memory:/own\n3:name=systemd:/\n1:cpu,cpuacct:/here\n0::/\n",
        );
        assert_eq!(layout.kind(), "hybrid");
        assert_eq!(layout.v1["cpu"], layout.v1["cpuacct"]);
        assert_eq!(
            layout.v1["cpu"].own,
            Path::new("/sys/fs/cgroup/cpu,cpuacct/here")
        );
        assert_eq!(
            layout.v1["memory"].own,
            Path::new("/sys/fs/cgroup/memory/own")
        );
        assert!(layout.v1.contains_key("name=systemd"));
        assert_eq!(layout.v1.len(), 4);
    }

    #[test]
    fn a_part_of_a_hierarchy_and_odd_names() {
        let layout = Layout::parse(
            "35 31 0:32 /docker/ab /mnt/c\\040g rw - cgroup cgroup rw,pids\n",
            "4:pids:/docker/ab/inner\n",
        );
        assert_eq!(layout.v1["pids"].mount, Path::new("/mnt/c g"));
        assert_eq!(layout.v1["pids"].own, Path::new("/mnt/c g/inner"));
        assert_eq!(layout.kind(), "v1");
        assert_eq!(Layout::parse("", "").kind(), "none");
        assert_eq!(Layout::parse("nonsense\n - \n", "::\n").kind(), "none");
    }
}
