//! Reads the circular arrays that the programs fill, as `etcdmon_agent_ebpf::request` describes. Neither side waits for
//! the other.

use std::sync::atomic::{Ordering, fence};

/// Up to where a circular array was read. The default is its beginning: whatever it still holds is read then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Number of the next record.
    next: u64,
    /// That record was being written when it was last looked for.
    awaited: bool,
    /// Records that the last reading found overwritten.
    overwritten: u64,
}

impl Position {
    /// Records between the earlier position and this one that were overwritten before they were read.
    pub const fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Whether the reading ended at a record that was being written: there may be more behind it.
    pub const fn is_awaiting(&self) -> bool {
        self.awaited
    }
}

/// Readings of an array whose records are their own numbers.
#[cfg(test)]
pub mod test_positions {
    use super::{Circular, Position};

    /// Reads on from `since`, where the records with the numbers in `holes` were never written.
    pub fn read(holes: &[u64], head: u64, since: Position, into: &mut Vec<u64>) -> Position {
        let word = |index: usize| if holes.contains(&(index as u64)) { 0 } else { index as u64 + 1 };
        Circular { entries: 8, words: 1 }.read(head, since, word, |words| into.push(words[0] - 1))
    }
}

/// A circular array of records of `words` words each; the first word is the sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circular {
    pub entries: usize,
    pub words: usize,
}

impl Circular {
    /// Hands over each whole record from `since` to `head`, in the order in which they were begun. `word` reads a word of
    /// the array.
    ///
    /// A record that is being written ends the reading. The next one goes on from there; if it is still not there, its
    /// place was given out twice (kernels before 5.12) and it counts as overwritten.
    pub fn read(
        self,
        head: u64,
        since: Position,
        word: impl Fn(usize) -> u64,
        mut each: impl FnMut(&[u64]),
    ) -> Position {
        let entries = self.entries as u64;
        let first = since.next.min(head).max(head.saturating_sub(entries));
        let mut overwritten = first.saturating_sub(since.next);
        let mut copy = vec![0; self.words];
        for number in first..head {
            let place = (number % entries) as usize * self.words;
            let sequence = || word(place);
            let before = sequence();
            if before < number + 1 && head - number < entries && !(since.awaited && number == since.next) {
                return Position { next: number, awaited: true, overwritten };
            }
            // Between them the copy is made: the programs write the sequence before and after the rest.
            fence(Ordering::Acquire);
            copy.iter_mut().enumerate().for_each(|(index, copied)| *copied = word(place + index));
            fence(Ordering::Acquire);
            if before == number + 1 && sequence() == before {
                each(&copy);
            } else {
                overwritten += 1;
            }
        }
        Position { next: head, awaited: false, overwritten }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const ARRAY: Circular = Circular { entries: 4, words: 2 };

    /// Sequences as they lie in the array; each record's second word is ten times its number.
    fn read(sequences: [u64; 4], head: u64, since: Position) -> (Vec<u64>, Position) {
        let mut found = Vec::new();
        let word = |index: usize| {
            let sequence = sequences[index / 2];
            if index.is_multiple_of(2) { sequence } else { sequence.saturating_sub(1) * 10 }
        };
        let position = ARRAY.read(head, since, word, |words| found.push(words[1]));
        (found, position)
    }

    fn at(next: u64) -> Position {
        Position { next, ..Position::default() }
    }

    #[test]
    fn what_came_since_is_read_in_order() {
        assert_eq!(read([0; 4], 0, at(0)), (vec![], at(0)));
        assert_eq!(read([1, 2, 3, 0], 3, at(1)), (vec![10, 20], at(3)));
        assert_eq!(read([5, 6, 3, 4], 6, at(2)), (vec![20, 30, 40, 50], at(6)));
        assert_eq!(read([1, 2, 3, 0], 3, at(3)), (vec![], at(3)));
    }

    #[test]
    fn what_was_overwritten_is_counted() {
        let (found, position) = read([9, 10, 7, 8], 10, at(1));
        assert_eq!((found, position.next, position.overwritten()), (vec![60, 70, 80, 90], 10, 5));
        // The place of record 6 already has record 10, which the count of records did not yet tell.
        let (found, position) = read([9, 10, 11, 8], 10, at(6));
        assert_eq!((found, position.overwritten()), (vec![70, 80, 90], 1));
    }

    #[test]
    fn a_record_that_is_being_written_is_waited_for_once() {
        let (found, position) = read([1, 0, 3, 0], 3, at(0));
        assert_eq!((found, position), (vec![0], Position { next: 1, awaited: true, overwritten: 0 }));
        assert_eq!(read([1, 2, 3, 0], 3, position).0, [10, 20]);
        // Its place was given to another one.
        let (found, position) = read([1, 0, 3, 0], 3, position);
        assert_eq!((found, position), (vec![20], Position { next: 3, awaited: false, overwritten: 1 }));
    }

    #[test]
    fn a_record_that_changes_while_it_is_copied_is_not_handed_over() {
        let reads = Cell::new(0);
        let word = |index: usize| {
            reads.set(reads.get() + 1);
            if index == 0 && reads.get() > 2 { 5 } else { 1 }
        };
        let position = ARRAY.read(1, at(0), word, |_| panic!("half of it is another record"));
        assert_eq!(position.overwritten(), 1);
    }

    #[test]
    fn a_position_of_other_probes_does_no_harm() {
        assert_eq!(read([1, 2, 0, 0], 2, at(900)), (vec![], at(2)));
    }
}
