//! Numbers of log lines as text. Pure.

/// Appends a number with so many digits at least: a third of the instructions of `write!`, of which
/// a line has up to ten.
pub(crate) fn push_number(line: &mut Vec<u8>, number: u64, min_digits: usize) {
    let (mut digits, mut start, mut rest) = ([b'0'; 20], 20, number);
    while rest > 0 || 20 - start < min_digits.clamp(1, 20) {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    line.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_digits_and_zeros_before_them() {
        for number in [0, 1, 9, 10, 4_294_967_296, u64::MAX] {
            for digits in [0, 1, 3, 20] {
                let mut line = Vec::new();
                push_number(&mut line, number, digits);
                assert_eq!(String::from_utf8(line).unwrap(), format!("{number:0digits$}"));
            }
        }
    }
}
