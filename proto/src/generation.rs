//! Which protocol generation two sides speak.

use std::ops::RangeInclusive;

/// The generations that this crate speaks. A release that begins a new one keeps the one before, so that neighbours
/// understand each other in either order of upgrade.
pub const GENERATIONS: RangeInclusive<u32> = 1..=1;

/// Why two sides have no generation in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoCommonGeneration {
    /// The other side is too old.
    #[error(
        "it speaks protocol generations up to {theirs}, this side from {ours} on: upgrade the other side"
    )]
    TheyAreOlder {
        /// Our first one.
        ours: u32,
        /// Their last one.
        theirs: u32,
    },
    /// The other side is too new.
    #[error("it speaks protocol generations from {theirs} on, this side up to {ours}: upgrade this side")]
    WeAreOlder {
        /// Our last one.
        ours: u32,
        /// Their first one.
        theirs: u32,
    },
    /// The other side names a range that holds nothing.
    #[error("it names no protocol generation: {first} to {last}")]
    Nothing {
        /// Begin of its range.
        first: u32,
        /// End of its range.
        last: u32,
    },
}

/// The highest generation that both sides speak.
///
/// # Errors
/// When there is none.
pub fn agree(ours: &RangeInclusive<u32>, theirs: &RangeInclusive<u32>) -> Result<u32, NoCommonGeneration> {
    let (first, last) = (*theirs.start(), *theirs.end());
    if theirs.is_empty() {
        Err(NoCommonGeneration::Nothing { first, last })
    } else if last < *ours.start() {
        Err(NoCommonGeneration::TheyAreOlder { ours: *ours.start(), theirs: last })
    } else if first > *ours.end() {
        Err(NoCommonGeneration::WeAreOlder { ours: *ours.end(), theirs: first })
    } else {
        Ok(last.min(*ours.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_generation_is_spoken() {
        assert_eq!(agree(&(1..=1), &(1..=1)), Ok(1));
        assert_eq!(agree(&(1..=1), &(1..=2)), Ok(1), "a newer side that still speaks ours");
        assert_eq!(agree(&(1..=2), &(1..=1)), Ok(1));
        assert_eq!(agree(&(2..=3), &(1..=9)), Ok(3));
    }

    #[test]
    fn without_one_the_message_says_which_side_to_upgrade() {
        let text = |theirs| agree(&(2..=3), &theirs).expect_err("none in common").to_string();
        assert!(text(4..=5).ends_with("upgrade this side"));
        assert!(text(1..=1).ends_with("upgrade the other side"));
        #[expect(clippy::reversed_empty_ranges, reason = "foreign input")]
        let nonsense = text(5..=2);
        assert!(nonsense.contains("5 to 2"));
    }

    #[test]
    fn neighbours_always_have_one_in_common() {
        for newest in 1..50u32 {
            let range = |newest: u32| newest.saturating_sub(1).max(1)..=newest;
            assert!(agree(&range(newest), &range(newest + 1)).is_ok());
            assert!(agree(&range(newest + 1), &range(newest)).is_ok());
        }
    }
}
