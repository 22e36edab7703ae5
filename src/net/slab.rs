//! A table of connections by token, with generations: a late event for an earlier occupant of an
//! entry finds nothing. Owned by one worker.

/// The name of one occupant of one entry: an index, which is reused, and a generation, which is
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// Generations wrap here, so that a token and the kind of its socket fit into an event's 64
    /// bits.
    const GENERATIONS: u32 = 1 << 30;

    /// The token that [`Slab::insert`] has returned for these.
    pub(super) fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    /// The index alone, for tables parallel to the slab.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The token as 62 bits.
    pub(super) fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    /// The token from its 62 bits.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: ((bits >> 32) as u32) % Self::GENERATIONS }
    }
}

/// Entries in one page. A table grows by whole pages, so that no entry is ever moved: growing costs
/// the same with ten thousand connections as with ten, and leaves no holes in memory.
const PAGE: usize = 256;

/// A growing table. The entry that was freed last is reused first.
#[derive(Debug)]
pub struct Slab<T> {
    pages: Vec<Vec<Entry<T>>>,
    free: Vec<u32>,
    /// The number of entries, free ones included.
    count: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    /// Stored here, because it fits into the padding after the generation.
    is_marked: bool,
    occupant: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<T> Slab<T> {
    /// Stores an occupant in a free entry and returns its token.
    pub fn insert(&mut self, occupant: T) -> Token {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let entry = self.entry(index).expect("a free entry exists");
        entry.occupant = Some(occupant);
        Token { index, generation: entry.generation }
    }

    fn grow(&mut self) -> u32 {
        let index = self.count;
        if (index as usize).is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages[index as usize / PAGE].push(Entry {
            generation: 0,
            is_marked: false,
            occupant: None,
        });
        self.count = index.checked_add(1).expect("fewer sockets than 2^32");
        index
    }

    fn entry(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.pages.get_mut(index as usize / PAGE)?.get_mut(index as usize % PAGE)
    }

    /// The occupant, unless it has left.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let entry = self.entry(token.index)?;
        if entry.generation == token.generation { entry.occupant.as_mut() } else { None }
    }

    /// Marks the occupant, unless it has left, and returns whether it had no mark before. The mark
    /// has no meaning here; it ends with the occupant.
    pub fn mark(&mut self, token: Token) -> Option<(&mut T, bool)> {
        let entry = self.entry(token.index)?;
        if entry.generation != token.generation {
            return None;
        }
        let occupant = entry.occupant.as_mut()?;
        Some((occupant, !std::mem::replace(&mut entry.is_marked, true)))
    }

    /// Removes the mark; false if there is none, or the occupant has left.
    pub fn unmark(&mut self, token: Token) -> bool {
        self.entry(token.index).is_some_and(|entry| {
            entry.generation == token.generation && std::mem::take(&mut entry.is_marked)
        })
    }

    /// Removes the occupant and frees its entry. Its token finds nothing from now on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let entry = self.entry(token.index)?;
        if entry.generation != token.generation {
            return None;
        }
        let occupant = entry.occupant.take()?;
        entry.is_marked = false;
        entry.generation = (entry.generation + 1) % Token::GENERATIONS;
        self.free.push(token.index);
        Some(occupant)
    }

    /// The number of occupants.
    pub fn len(&self) -> usize {
        self.count as usize - self.free.len()
    }

    /// Whether there is no occupant.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of all occupants, for rare walks over everything.
    pub fn tokens(&self) -> Vec<Token> {
        let entries = self.pages.iter().flatten().zip(0..);
        let occupied = entries.filter(|(entry, _)| entry.occupant.is_some());
        occupied.map(|(entry, index)| Token::new(index, entry.generation)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_an_earlier_occupant_finds_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(second.index(), first.index(), "the entry is reused");
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert_eq!(slab.tokens(), [second]);
    }

    #[test]
    fn a_table_grows_page_by_page() {
        let mut slab = Slab::default();
        let tokens: Vec<Token> = (0..2 * PAGE + 1).map(|number| slab.insert(number)).collect();
        assert_eq!((slab.len(), slab.tokens()), (2 * PAGE + 1, tokens.clone()));
        for (mut number, token) in tokens.iter().enumerate() {
            assert_eq!(slab.get_mut(*token), Some(&mut number));
        }
        assert_eq!((slab.remove(tokens[PAGE]), slab.len()), (Some(PAGE), 2 * PAGE));
        assert_eq!(slab.insert(7).index(), tokens[PAGE].index(), "the free entry comes first");
    }

    #[test]
    fn a_mark_is_set_once_and_ends_with_its_occupant() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.mark(first), Some((&mut "first", true)));
        assert_eq!(slab.mark(first), Some((&mut "first", false)));
        assert!(slab.unmark(first) && !slab.unmark(first));
        assert_eq!(slab.mark(first), Some((&mut "first", true)));
        slab.remove(first);
        assert_eq!(slab.mark(first), None);
        assert!(!slab.unmark(first), "the token finds nothing any more");
        let second = slab.insert("second");
        assert!(!slab.unmark(first) && !slab.unmark(second), "a new occupant has no mark");
        assert_eq!(slab.mark(second), Some((&mut "second", true)));
        assert!(!slab.unmark(first) && slab.unmark(second));
    }

    #[test]
    fn a_token_can_be_restored_from_its_bits() {
        let token = Token { index: 7, generation: Token::GENERATIONS - 1 };
        assert_eq!(Token::from_bits(token.to_bits()), token);
    }
}
