//! Numbered places for connections, with generations so that a late event for an earlier tenant is
//! recognised.

/// Names one tenant of one place: an index that is used again, and a generation that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey {
    index: u32,
    generation: u32,
}

impl SlotKey {
    /// Generations wrap here, so that a key and the kind of its slot fit into an event's 64 bits.
    const GENERATIONS: u32 = 1 << 30;

    /// The place alone, for tables that run beside the slots.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The key as 62 bits.
    pub(super) fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    /// The key from its 62 bits.
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: ((bits >> 32) as u32) % Self::GENERATIONS }
    }
}

/// A growing table of places. A place that becomes free is the next to be taken.
#[derive(Debug)]
pub struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    tenant: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Takes a place and returns the key of its tenant.
    pub fn insert(&mut self, tenant: T) -> SlotKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, tenant: None });
            u32::try_from(self.places.len() - 1).expect("fewer sockets than 2^32")
        });
        let place = &mut self.places[index as usize];
        place.tenant = Some(tenant);
        SlotKey { index, generation: place.generation }
    }

    /// The tenant, unless it has left.
    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation == key.generation { place.tenant.as_mut() } else { None }
    }

    /// Frees the tenant's place. Its key names nobody from now on.
    pub fn remove(&mut self, key: SlotKey) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let tenant = place.tenant.take()?;
        place.generation = (place.generation + 1) % SlotKey::GENERATIONS;
        self.free.push(key.index);
        Some(tenant)
    }

    /// How many tenants there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no tenant.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of all tenants, for rare walks over everything.
    pub fn keys(&self) -> Vec<SlotKey> {
        let tenants = self.places.iter().enumerate().filter(|(_, place)| place.tenant.is_some());
        tenants
            .map(|(index, place)| SlotKey { index: index as u32, generation: place.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_tenant_names_nobody() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.index(), first.index(), "the place is used again");
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
        assert_eq!(slots.keys(), [second]);
    }

    #[test]
    fn a_key_survives_its_way_through_an_event() {
        let key = SlotKey { index: 7, generation: SlotKey::GENERATIONS - 1 };
        assert_eq!(SlotKey::from_bits(key.to_bits()), key);
    }
}
