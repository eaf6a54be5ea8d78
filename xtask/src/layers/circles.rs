//! Files of one crate that import one another in a circle.
//!
//! Owns the graph of files and its largest circles. A circle of two or three files is how a module
//! and its parts talk; more are a tangle that nobody can read a part of. An import is whatever names
//! an item that another file defines: re-exports are followed to the definition, code that only
//! tests see does not count.

mod graph;
mod imports;
mod modules;

use anyhow::Result;

use super::findings::Findings;
use crate::workspace::Workspace;

/// The most files that may import one another in a circle.
const MAX_FILES: usize = 3;

/// Reads every crate of ours and reports each circle that is too large.
pub(super) fn check(workspace: &Workspace, findings: &mut Findings) -> Result<()> {
    for package in workspace.metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
    {
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_root = target["kind"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|kind| kind == "lib" || kind == "bin");
            let Some(root) = target["src_path"].as_str().filter(|_| is_root) else {
                continue;
            };
            let tree = modules::Tree::read(root.as_ref())?;
            for circle in graph::circles(&imports::edges(&tree)) {
                let files: Vec<String> = circle
                    .iter()
                    .map(|&file| workspace.shown(tree.path(file)).to_string())
                    .collect();
                judge(&files, findings);
            }
        }
    }
    Ok(())
}

fn judge(files: &[String], findings: &mut Findings) {
    if files.len() > MAX_FILES {
        findings.error(format!(
            "{} files import one another in a circle, more than {MAX_FILES}: {}",
            files.len(),
            files.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests;
