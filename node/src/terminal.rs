//! Text on its way to a terminal. Model names, reasons and answers come from strangers' machines,
//! and a terminal obeys escape sequences.

use std::borrow::Cow;

/// comfy-table's preset for all tables: a line under the header and nothing else.
pub const HEADER_LINE: &str = "     ──            ";

/// `text` without control characters, line breaks and tabs apart.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .map(|c| if harmless(c) { c } else { '\u{fffd}' })
            .collect(),
    )
}

/// The end of a peer id, which is where they differ.
#[must_use]
pub fn short_peer(peer: &str) -> String {
    const SHOWN: usize = 8;
    let skip = peer.chars().count().saturating_sub(SHOWN);
    let tail: String = peer.chars().skip(skip).collect();
    if skip == 0 {
        plain(&tail).into_owned()
    } else {
        format!("…{}", plain(&tail))
    }
}

/// Asks a question that has two answers. No, where nobody can be asked.
///
/// # Errors
/// The terminal's.
pub fn said_yes(question: &str) -> std::io::Result<bool> {
    use std::io::{IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    // Standard output is for the result.
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(
            plain("a\u{1b}[2Jb\u{9b}c\r\n\td"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\n\td"
        );
        assert_eq!(plain("grüße 🙂\n"), "grüße 🙂\n");
        assert_eq!(short_peer("12D3KooWabcdefgh"), "…abcdefgh");
        assert_eq!(short_peer("short"), "short");
    }
}
