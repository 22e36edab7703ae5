//! A table of connections by token, with generations: a late event for an earlier occupant of an
//! entry finds nothing.

/// Names one occupant of one entry: an index that is used again, and a generation that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// Generations wrap here, so that a token and the kind of its socket fit into an event's 64 bits.
    const GENERATIONS: u32 = 1 << 30;

    pub(super) fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The entry alone, for tables that run beside the slab.
    pub fn index(self) -> u32 {
        self.index
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
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

/// A growing table of entries. An entry that becomes free is the next to be taken.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    /// Here, because it takes no room beside the generation.
    is_marked: bool,
    occupant: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Takes an entry and returns the token of its occupant.
    pub fn insert(&mut self, occupant: T) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, is_marked: false, occupant: None });
            u32::try_from(self.entries.len() - 1).expect("fewer sockets than 2^32")
        });
        let entry = &mut self.entries[index as usize];
        entry.occupant = Some(occupant);
        Token { index, generation: entry.generation }
    }

    /// The occupant, unless it has left.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation == token.generation { entry.occupant.as_mut() } else { None }
    }

    /// Marks the occupant; false if it is marked already, or has left. A mark means what its owner
    /// wants; it ends with the occupant.
    pub fn mark(&mut self, token: Token) -> bool {
        let entry = self.entries.get_mut(token.index as usize);
        entry.is_some_and(|entry| {
            let is_here = entry.generation == token.generation && entry.occupant.is_some();
            is_here && !std::mem::replace(&mut entry.is_marked, true)
        })
    }

    /// Takes the mark away; false if there is none, or the occupant has left.
    pub fn unmark(&mut self, token: Token) -> bool {
        let entry = self.entries.get_mut(token.index as usize);
        entry.is_some_and(|entry| {
            entry.generation == token.generation && std::mem::take(&mut entry.is_marked)
        })
    }

    /// Frees the occupant's entry. Its token names nothing from now on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let entry = self.entries.get_mut(token.index as usize)?;
        if entry.generation != token.generation {
            return None;
        }
        let occupant = entry.occupant.take()?;
        entry.is_marked = false;
        entry.generation = (entry.generation + 1) % Token::GENERATIONS;
        self.free.push(token.index);
        Some(occupant)
    }

    /// How many occupants there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is no occupant.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of all occupants, for rare walks over everything.
    pub fn tokens(&self) -> Vec<Token> {
        let occupants =
            self.entries.iter().enumerate().filter(|(_, entry)| entry.occupant.is_some());
        occupants
            .map(|(index, entry)| Token { index: index as u32, generation: entry.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_occupant_names_nobody() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(second.index(), first.index(), "the entry is used again");
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert_eq!(slab.tokens(), [second]);
    }

    #[test]
    fn a_mark_is_set_once_and_ends_with_its_occupant() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert!(slab.mark(first) && !slab.mark(first));
        assert!(slab.unmark(first) && !slab.unmark(first));
        assert!(slab.mark(first));
        slab.remove(first);
        assert!(!slab.mark(first) && !slab.unmark(first), "it names nothing any more");
        let second = slab.insert("second");
        assert!(!slab.unmark(first) && !slab.unmark(second), "a new occupant has no mark");
        assert!(slab.mark(second));
        assert!(!slab.unmark(first) && slab.unmark(second));
    }

    #[test]
    fn a_key_survives_its_way_through_an_event() {
        let token = Token { index: 7, generation: Token::GENERATIONS - 1 };
        assert_eq!(Token::from_bits(token.to_bits()), token);
    }
}
