//! The nearest name, for errors about a name that does not exist. Pure.

/// The least similarity of a suggestion, from 0 to 1; less is no typing error.
const MIN_SIMILARITY: f64 = 0.7;

/// The most similar of these names, if it may be the intended one.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&text, &name.to_ascii_lowercase());
    let rated = names.into_iter().map(|name| (similarity(name), name));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 >= MIN_SIMILARITY).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_has_a_nearest_name_and_nonsense_has_none() {
        let names = ["list", "add", "remove", "algorithm"];
        for (text, name) in [("lsit", "list"), ("REMVE", "remove"), ("algo", "algorithm")] {
            assert_eq!(nearest(text, names), Some(name), "{text}");
        }
        assert_eq!(nearest("xyz", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest("list", []), None);
    }
}
