//! The ranges of user ids that sandboxes have: bookkeeping in memory, rebuilt at the start from the
//! meta file of every box.
//!
//! A range is taken before its box directory exists and freed only after the directory has left
//! `boxes/`, so two boxes on disk never share one.

/// First host id of the first range. High enough that no distribution hands it to a person,
/// a service or a subordinate range, and far below the ids that the kernel reserves.
pub(crate) const FIRST_ID: u32 = 0x2000_0000;
/// Ids in one range: what a program inside expects to have.
pub(crate) const IDS_PER_SLOT: u32 = 65_536;
/// How many ranges there are: they end at 0x6000_0000.
pub(crate) const SLOTS: u32 = 16_384;

/// Taken and free ranges.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: Vec<u64>,
    /// Where the search begins: the word after the last range that was taken, so that a range is not
    /// used again at once.
    next_word: usize,
}

impl Slots {
    /// All free; the search begins at `seed`. Two servers of one machine do not see each other's ranges,
    /// so each begins elsewhere.
    pub(crate) fn new(seed: u64) -> Self {
        let words = SLOTS / u64::BITS;
        Self {
            taken: vec![0; words as usize],
            next_word: (seed % u64::from(words)) as usize,
        }
    }

    /// Takes a free range; none when all are taken.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let words = self.taken.len();
        let word = (0..words)
            .map(|step| (self.next_word + step) % words)
            .find(|&word| self.taken[word] != u64::MAX)?;
        let bit = self.taken[word].trailing_ones();
        self.taken[word] |= 1 << bit;
        self.next_word = (word + 1) % words;
        Some(u32::try_from(word).expect("there are few words") * u64::BITS + bit)
    }

    /// Marks a range as taken, as a meta file says; false when there is no such range.
    pub(crate) fn mark(&mut self, slot: u32) -> bool {
        let Some(word) = self.taken.get_mut((slot / u64::BITS) as usize) else {
            return false;
        };
        *word |= 1 << (slot % u64::BITS);
        true
    }

    /// Frees a range.
    pub(crate) fn free(&mut self, slot: u32) {
        if let Some(word) = self.taken.get_mut((slot / u64::BITS) as usize) {
            *word &= !(1 << (slot % u64::BITS));
        }
    }
}

/// First host id of a range.
pub(crate) fn id_base(slot: u32) -> u32 {
    FIRST_ID + slot * IDS_PER_SLOT
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_range_is_given_out_once_and_ranges_never_meet() {
        let mut slots = Slots::new(0);
        assert!(slots.mark(7));
        let mut seen = HashSet::new();
        while let Some(slot) = slots.take() {
            assert_ne!(slot, 7, "a marked range was given out");
            assert!(seen.insert(slot), "range {slot} was given out twice");
        }
        assert_eq!(seen.len(), SLOTS as usize - 1);
        slots.free(4711);
        assert_eq!(slots.take(), Some(4711));
        assert_eq!(slots.take(), None);
    }

    #[test]
    fn the_last_range_ends_where_it_should() {
        let last = id_base(SLOTS - 1);
        assert_eq!(last + (IDS_PER_SLOT - 1), 0x5fff_ffff);
    }

    #[test]
    fn a_range_from_a_damaged_file_is_refused() {
        assert!(!Slots::new(0).mark(SLOTS));
    }
}
