//! Which file names items of which other file.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, ItemUse, Macro, Path};

use super::modules::{Tree, only_for_tests};

/// For each file the files that it needs, itself left out.
pub(super) fn edges(tree: &Tree) -> Vec<BTreeSet<usize>> {
    let mut edges = vec![BTreeSet::new(); tree.files()];
    for (number, module) in tree.modules().iter().enumerate() {
        let mut names = Names {
            tree,
            module: number,
            files: BTreeSet::new(),
        };
        for item in &module.items {
            names.visit_item(item);
        }
        for glob in &module.globs {
            names.note(glob);
        }
        names.files.remove(&module.file);
        edges[module.file].append(&mut names.files);
    }
    edges
}

/// Collects the files that one module names.
struct Names<'a> {
    tree: &'a Tree,
    module: usize,
    files: BTreeSet<usize>,
}

impl Names<'_> {
    fn note(&mut self, path: &[String]) {
        if let Some(file) = self.tree.defined_in(self.module, path) {
            self.files.insert(file);
        }
    }

    /// Code inside a macro is only tokens: every run of names with `::` between them is a path.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.note(&path);
                        path.clear();
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.note(&path);
                    path.clear();
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !only_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !only_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    /// `pub(crate)` names no item.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        leaves(&import.tree, &mut Vec::new(), &mut |path| self.note(path));
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.note(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }
}

/// Every whole path that a `use` names.
fn leaves(tree: &syn::UseTree, path: &mut Vec<String>, note: &mut impl FnMut(&[String])) {
    match tree {
        syn::UseTree::Path(step) => {
            path.push(step.ident.to_string());
            leaves(&step.tree, path, note);
            path.pop();
        }
        syn::UseTree::Name(name) => with(path, &name.ident, note),
        syn::UseTree::Rename(rename) => with(path, &rename.ident, note),
        syn::UseTree::Glob(_) => {}
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                leaves(tree, path, note);
            }
        }
    }
}

fn with(path: &mut Vec<String>, name: &syn::Ident, note: &mut impl FnMut(&[String])) {
    if name == "self" {
        return note(path);
    }
    path.push(name.to_string());
    note(path);
    path.pop();
}
