//! The nearest name to a wrong one, for errors. Pure.

/// The candidate that was probably meant: the one with the fewest edits, if these are at most two,
/// or a third of the text. Case does not matter, and `-` is `_`.
pub fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let text = normal(text);
    let max_edits = (text.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&text, &normal(candidate)), candidate))
        .filter(|(edits, candidate)| *edits <= max_edits && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

fn normal(text: &str) -> String {
    // No name is longer, and the distance takes quadratic time.
    text.chars().take(200).collect::<String>().to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_differs_in_at_most_a_third_of_its_letters() {
        let names = ["round_robin", "least_conn", "random", "p2c"];
        for (text, name) in [
            ("round_robbin", Some("round_robin")),
            ("Least-Con", Some("least_conn")),
            ("radnom", Some("random")),
            ("p2", Some("p2c")),
            ("fastest", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, names), name, "{text}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
