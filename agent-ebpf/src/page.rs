//! Which page of a folio is its first.

/// Words from here on are no pointer to a `struct page`: the last GiB of the address space has none on x86-64 and arm64. A
/// mask is above, as no folio has as many pages as would bring one below.
const FIRST_MASK: u64 = 0xffff_ffff_c000_0000;

/// The first page of the folio that `page` is in, both by address. `word` is the page's own: its lowest bit is set in all but
/// the first page, and the rest is the first one's address (`compound_head`) or, in kernels that keep it as
/// `compound_info` and have pages of a size that is a power of two, a mask that makes the first one's address of this one's.
#[inline(always)]
pub const fn first_of_folio(page: u64, word: u64) -> u64 {
    if word & 1 == 0 {
        page
    } else if word >= FIRST_MASK {
        page & word
    } else {
        word - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 0xffff_ea00_0412_8000;

    #[test]
    fn a_page_of_its_own_and_the_first_one_stay() {
        assert_eq!(first_of_folio(FIRST, 0), FIRST);
        assert_eq!(first_of_folio(FIRST, 0xdead_beef_0000_0100), FIRST);
    }

    #[test]
    fn another_one_has_the_address_of_the_first() {
        assert_eq!(first_of_folio(FIRST + 3 * 64, FIRST | 1), FIRST);
    }

    #[test]
    fn another_one_has_a_mask_to_the_first() {
        for order in [1, 2, 9, 18] {
            let pages = 1_u64 << order;
            let mask = !(pages * 64 - 1);
            let first = FIRST & mask;
            assert_eq!(first_of_folio(first + (pages - 1) * 64, mask | 1), first, "order {order}");
            assert_eq!(first_of_folio(first + 64, mask | 1), first, "order {order}");
        }
    }
}
