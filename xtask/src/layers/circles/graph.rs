//! Circles in a directed graph: its strongly connected components, found by Tarjan's algorithm
//! ("Depth-first search and linear graph algorithms", 1972).

use std::collections::BTreeSet;

/// Every group of two or more nodes of which each reaches each other one, largest first.
pub(super) fn circles(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        edges,
        found: vec![None; edges.len()],
        lowest: vec![0; edges.len()],
        on_stack: vec![false; edges.len()],
        stack: Vec::new(),
        next: 0,
        circles: Vec::new(),
    };
    for node in 0..edges.len() {
        if search.found[node].is_none() {
            search.visit(node);
        }
    }
    search
        .circles
        .sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    search.circles
}

struct Search<'a> {
    edges: &'a [BTreeSet<usize>],
    /// When each node was first seen.
    found: Vec<Option<usize>>,
    /// The earliest node on the stack that each node reaches.
    lowest: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
    circles: Vec<Vec<usize>>,
}

impl Search<'_> {
    /// Recursion is as deep as a crate has files.
    fn visit(&mut self, node: usize) {
        let seen = self.next;
        self.found[node] = Some(seen);
        self.lowest[node] = seen;
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
        for &other in &self.edges[node] {
            match self.found[other] {
                None => {
                    self.visit(other);
                    self.lowest[node] = self.lowest[node].min(self.lowest[other]);
                }
                Some(other_seen) if self.on_stack[other] => {
                    self.lowest[node] = self.lowest[node].min(other_seen);
                }
                Some(_) => {}
            }
        }
        if self.lowest[node] == seen {
            let mut circle = Vec::new();
            while let Some(member) = self.stack.pop() {
                self.on_stack[member] = false;
                circle.push(member);
                if member == node {
                    break;
                }
            }
            if circle.len() > 1 {
                circle.sort_unstable();
                self.circles.push(circle);
            }
        }
    }
}
