//! "Did you mean …?" for names that are nearly right.

/// Longest name worth comparing, characters; a stranger's name is not compared beyond it.
const MAX_NAME_CHARS: usize = 64;

/// The candidate nearest to `name`, if it is at most a third of its length away.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    if length == 0 || length > MAX_NAME_CHARS {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= length.div_ceil(3).min(4))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters, by the usual single row.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i.saturating_add(1);
        let mut next = vec![left];
        for (above, to) in row.iter().skip(1).zip(b.chars()) {
            let substitute = diagonal.saturating_add(usize::from(from != to));
            left = substitute
                .min(above.saturating_add(1))
                .min(left.saturating_add(1));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, distance) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("abc", "", 3),
            ("flaw", "lawn", 2),
            ("same", "same", 0),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn a_typo_is_recognised_and_nonsense_is_not() {
        let names = ["temperature", "top_p", "max_tokens"];
        assert_eq!(nearest("temprature", names), Some("temperature"));
        assert_eq!(nearest("max_token", names), Some("max_tokens"));
        assert_eq!(nearest("banana", names), None);
        assert_eq!(nearest(&"x".repeat(10_000), names), None);
    }
}
