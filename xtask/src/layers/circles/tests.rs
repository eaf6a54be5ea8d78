#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;

/// A directory of one test, gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The sizes of the circles of a crate made of these files.
fn sizes(name: &str, files: &[(&str, &str)]) -> Vec<usize> {
    let directory = Directory::new(name);
    let tree = modules::Tree::of(&directory.0, files).unwrap();
    let circles = graph::circles(&imports::edges(&tree));
    circles.iter().map(Vec::len).collect()
}

#[test]
fn a_circle_is_found_and_one_of_four_fails() {
    let ring = |names: &[&str]| -> Vec<(String, String)> {
        let root = names.iter().map(|name| format!("mod {name};\n")).collect();
        let mut files = vec![("lib.rs".to_owned(), root)];
        for (at, name) in names.iter().enumerate() {
            let next = names[(at + 1) % names.len()];
            let text = format!("use crate::{next}::Thing as Next;\npub struct Thing(Box<Next>);\n");
            files.push((format!("{name}.rs"), text));
        }
        files
    };
    for (names, broken) in [(&["a", "b", "c"][..], 0), (&["a", "b", "c", "d"], 1)] {
        let files = ring(names);
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (&**n, &**t)).collect();
        let name = format!("ring-{}", names.len());
        assert_eq!(sizes(&name, &files), [names.len()]);
        let mut findings = Findings::default();
        judge(
            &names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>(),
            &mut findings,
        );
        assert_eq!(findings.errors.len(), broken);
    }
}

#[test]
fn a_re_export_is_followed_to_its_definition_and_is_no_import() {
    let files = [
        ("lib.rs", "mod a;\nmod b;\npub use a::A;\npub use b::B;\n"),
        ("a.rs", "use crate::B;\npub struct A(B);\n"),
        ("b.rs", "pub struct B;\n"),
    ];
    assert_eq!(sizes("re-export", &files), [0; 0]);
    let files = [
        files[0],
        files[1],
        (
            "b.rs",
            "pub struct B;\nfn make() -> Option<crate::A> { None }\n",
        ),
    ];
    assert_eq!(sizes("re-export-circle", &files), [2]);
}

#[test]
fn code_in_macros_counts_and_code_for_tests_does_not() {
    let with = |text: &'static str| {
        [
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "use crate::b::B;\npub struct A(B);\n"),
            ("b.rs", text),
        ]
    };
    let used = "pub struct B;\nfn f() { let _ = format!(\"{:?}\", crate::a::A::new()); }\n";
    assert_eq!(sizes("macro", &with(used)), [2]);
    let tested = "pub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }\n";
    assert_eq!(sizes("tested", &with(tested)), [0; 0]);
}

#[test]
fn parents_and_children_are_told_apart() {
    let files = [
        ("lib.rs", "mod a;\n"),
        (
            "a.rs",
            "mod b;\npub const MOST: usize = 1;\npub fn f() { b::g(); }\n",
        ),
        ("a/b.rs", "use super::MOST;\npub fn g() { let _ = MOST; }\n"),
    ];
    assert_eq!(sizes("parent", &files), [2]);
}

#[test]
fn nodes_that_only_lead_into_a_circle_are_no_part_of_it() {
    let edges: Vec<BTreeSet<usize>> = [vec![1], vec![2], vec![1, 3], vec![]]
        .into_iter()
        .map(BTreeSet::from_iter)
        .collect();
    assert_eq!(graph::circles(&edges), [[1, 2]]);
}
