//! Printing answers: aligned columns for people, JSON for programs.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use stacyvm_config::Problem;

/// One JSON document on standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// One line on standard output. A closed pipe (`| head`) is an error, not a panic.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Columns as wide as their widest cell, two spaces apart.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> Result<()> {
    line(&aligned(heading, rows))
}

/// The lines of a table, the last column not padded.
pub(crate) fn aligned(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([heading[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.trim_end().to_owned()
    };
    std::iter::once(render(heading.to_vec()))
        .chain(
            rows.iter()
                .map(|row| render(row.iter().map(String::as_str).collect())),
        )
        .collect::<Vec<_>>()
        .join("\n")
}

/// What is suspicious about the configuration, on standard error.
pub(crate) fn warnings(warnings: &[Problem]) {
    for warning in warnings {
        match &warning.hint {
            Some(hint) => eprintln!("warning: {warning}, {hint}"),
            None => eprintln!("warning: {warning}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["sb-1".to_owned(), "running".to_owned()],
            vec!["x".to_owned(), "error".to_owned()],
        ];
        assert_eq!(
            aligned(&["ID", "STATE"], &rows),
            "ID    STATE\nsb-1  running\nx     error"
        );
    }
}
