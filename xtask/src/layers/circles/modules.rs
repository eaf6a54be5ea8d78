//! The tree of modules of one crate, and which file defines which name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::{Attribute, Item, UseTree, Visibility};

/// A crate's modules; a module is named by its place in the list, the root is the first.
pub(super) struct Tree {
    files: Vec<PathBuf>,
    modules: Vec<Module>,
}

/// One module, in a file of its own or between brackets.
#[derive(Default)]
pub(super) struct Module {
    /// The file that it stands in.
    pub(super) file: usize,
    pub(super) parent: Option<usize>,
    pub(super) children: BTreeMap<String, usize>,
    /// What each imported name stands for.
    pub(super) imports: BTreeMap<String, Vec<String>>,
    /// Paths of `use …::*`.
    pub(super) globs: Vec<Vec<String>>,
    /// What it holds, without what only tests see.
    pub(super) items: Vec<Item>,
}

impl Tree {
    /// Reads the file and every file that it leads to.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self {
            files: Vec::new(),
            modules: Vec::new(),
        };
        let directory = root.parent().unwrap_or(Path::new("")).to_owned();
        tree.read_file(root, &directory, None)?;
        Ok(tree)
    }

    /// A crate of the given files, for tests: the first is the root.
    #[cfg(test)]
    pub(super) fn of(directory: &Path, files: &[(&str, &str)]) -> Result<Self> {
        for (name, text) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().context("a file stands in a directory")?)?;
            fs::write(path, text)?;
        }
        Self::read(&directory.join(files[0].0))
    }

    pub(super) fn path(&self, file: usize) -> &Path {
        &self.files[file]
    }

    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    pub(super) fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn read_file(&mut self, path: &Path, below: &Path, parent: Option<usize>) -> Result<usize> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("read {shown}"))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("parse {shown}"))?;
        let file = self.files.len();
        self.files.push(path.to_owned());
        self.add(parsed.items, file, below, parent)
    }

    fn add(
        &mut self,
        items: Vec<Item>,
        file: usize,
        below: &Path,
        parent: Option<usize>,
    ) -> Result<usize> {
        let number = self.modules.len();
        self.modules.push(Module {
            file,
            parent,
            ..Module::default()
        });
        for item in items {
            match item {
                Item::Mod(module) if !only_for_tests(&module.attrs) => {
                    let name = module.ident.to_string();
                    let inside = below.join(&name);
                    let child = match module.content {
                        Some((_, items)) => self.add(items, file, &inside, Some(number))?,
                        None => {
                            let beside = below.join(format!("{name}.rs"));
                            let path = if beside.exists() {
                                beside
                            } else {
                                inside.join("mod.rs")
                            };
                            self.read_file(&path, &inside, Some(number))?
                        }
                    };
                    self.modules[number].children.insert(name, child);
                }
                Item::Mod(_) => {}
                Item::Use(import) if !only_for_tests(&import.attrs) => {
                    self.modules[number].import(&import.tree, &mut Vec::new());
                    // What is passed on is not used here.
                    if matches!(import.vis, Visibility::Inherited) {
                        self.modules[number].items.push(Item::Use(import));
                    }
                }
                Item::Use(_) => {}
                other => self.modules[number].items.push(other),
            }
        }
        Ok(number)
    }

    /// The file that defines what `path` names when it is written in `module`; none for what is not
    /// of this crate.
    pub(super) fn defined_in(&self, module: usize, path: &[String]) -> Option<usize> {
        self.resolve(module, path, 0)
    }

    fn resolve(&self, module: usize, path: &[String], depth: usize) -> Option<usize> {
        // A re-export of a re-export is followed this often.
        if depth > 16 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(0, rest, depth),
            "self" => self.walk(module, rest, depth),
            "super" => self.walk(self.modules[module].parent?, rest, depth),
            name => {
                let here = &self.modules[module];
                if let Some(&child) = here.children.get(name) {
                    return self.walk(child, rest, depth);
                }
                let mut target = here.imports.get(name)?.clone();
                // `use serde;` names a crate of others by itself.
                if target.first() == Some(first) && target.len() == 1 {
                    return None;
                }
                target.extend(rest.iter().cloned());
                self.resolve(module, &target, depth + 1)
            }
        }
    }

    /// From a module downwards: children, then what it passes on, then itself.
    fn walk(&self, module: usize, path: &[String], depth: usize) -> Option<usize> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self.modules[module].file);
        };
        let here = &self.modules[module];
        match first.as_str() {
            "super" => return self.walk(here.parent?, rest, depth),
            "self" => return self.walk(module, rest, depth),
            _ => {}
        }
        if let Some(&child) = here.children.get(first) {
            return self.walk(child, rest, depth);
        }
        if let Some(target) = here.imports.get(first) {
            let mut target = target.clone();
            target.extend(rest.iter().cloned());
            return self.resolve(module, &target, depth + 1);
        }
        Some(here.file)
    }
}

impl Module {
    fn import(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.import(&step.tree, path);
                path.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                if let Some(last) = path.last().cloned() {
                    self.imports.insert(last, path.clone());
                }
            }
            UseTree::Name(name) => {
                let mut whole = path.clone();
                whole.push(name.ident.to_string());
                self.imports.insert(name.ident.to_string(), whole);
            }
            UseTree::Rename(rename) => {
                let mut whole = path.clone();
                if rename.ident != "self" {
                    whole.push(rename.ident.to_string());
                }
                self.imports.insert(rename.rename.to_string(), whole);
            }
            UseTree::Glob(_) => self.globs.push(path.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path);
                }
            }
        }
    }
}

/// Whether an item stands under `#[cfg(test)]`.
pub(super) fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}
