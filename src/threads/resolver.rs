//! The resolver: a thread that resolves the names of backends again and again.
//!
//! It blocks on its channels until a name is due or a lookup has ended, and must never look a name
//! up itself: each lookup runs on a thread of its own, at most [`MAX_LOOKUPS`] at once, one per name.
//! The system's resolver may take minutes, and cannot be interrupted. A lookup that hangs then costs
//! its thread until it ends, delays no other name, and is left behind when the balancer ends. The
//! results go to the registry, which decides what they change.

mod due;

use crate::net;
use crate::upstream::backend::Backend;
use crate::upstream::registry::{BackendStatus, Registry, Resolution};
use crossbeam_channel::{Receiver, Sender};
use due::{Names, Turn, Wanted};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Lookups at once: names that hang delay others only if there are as many of them.
const MAX_LOOKUPS: usize = 16;
/// The time after which the statuses are read again without a notification.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The function that looks a host up: blocks, and returns its addresses in the order in which they
/// are tried.
pub type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The running resolver; it ends when this is dropped.
pub struct Resolver {
    first_round_is_over: Receiver<()>,
    own: Arc<OnceLock<String>>,
    _end: Sender<()>,
}

impl Resolver {
    /// Starts the thread. Addresses of backends that are among `listening` are not used.
    pub fn start(
        registry: &Arc<Registry>,
        listening: Vec<SocketAddr>,
        lookup: Lookup,
    ) -> io::Result<Self> {
        let (end, ended) = crossbeam_channel::bounded(0);
        let (first_round, first_round_is_over) = crossbeam_channel::bounded::<()>(0);
        let (results, lookups) = crossbeam_channel::unbounded();
        let own = Arc::new(OnceLock::new());
        let thread = ResolverThread {
            due: registry.names_due(),
            registry: Arc::clone(registry),
            listening,
            lookup,
            results,
            lookups,
            names: Names::default(),
            dropped: BTreeMap::new(),
            first_round: Some(first_round),
            own: Arc::clone(&own),
        };
        thread::Builder::new().name("resolver".to_owned()).spawn(move || thread.run(&ended))?;
        Ok(Self { first_round_is_over, own, _end: end })
    }

    /// Waits for the ends of the first lookups.
    pub fn wait_for_first_round(&self, timeout: Duration) {
        // Ends by timeout, or when the thread drops the sender.
        let _ = self.first_round_is_over.recv_timeout(timeout);
    }

    /// A backend with a name that has led to the balancer itself, if there is any.
    pub fn own_listener(&self) -> Option<&str> {
        self.own.get().map(String::as_str)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("own", &self.own).finish_non_exhaustive()
    }
}

/// The end of a lookup.
struct Found {
    host: String,
    addresses: io::Result<Vec<IpAddr>>,
}

/// The state of the thread.
struct ResolverThread {
    registry: Arc<Registry>,
    /// Notifications of new names and of failures.
    due: Receiver<()>,
    /// The addresses on which the balancer listens.
    listening: Vec<SocketAddr>,
    lookup: Lookup,
    results: Sender<Found>,
    lookups: Receiver<Found>,
    names: Names,
    /// The addresses of backends that are not used, because they are our own listeners.
    dropped: BTreeMap<String, Vec<SocketAddr>>,
    /// Dropped when the first lookup of every name has ended.
    first_round: Option<Sender<()>>,
    /// The first backend that was found to be the balancer itself.
    own: Arc<OnceLock<String>>,
}

impl ResolverThread {
    fn run(mut self, ended: &Receiver<()>) {
        loop {
            let now = Instant::now();
            self.names.update(&self.wanted(), now);
            for host in self.names.take_due(now, MAX_LOOKUPS) {
                self.start_lookup(host);
            }
            if self.names.is_first_round_over() {
                self.first_round = None;
            }
            let next = self.names.next_due(MAX_LOOKUPS);
            let wait = next.map_or(MAX_WAIT, |due| due.saturating_duration_since(now));
            crossbeam_channel::select! {
                recv(self.lookups) -> found => if let Ok(found) = found { self.handle(found) },
                // An error means that another resolver has taken over.
                recv(self.due) -> due => if due.is_err() { return },
                recv(ended) -> _ => return,
                default(wait) => {}
            }
        }
    }

    /// The members whose hosts are names.
    fn members(&self) -> impl Iterator<Item = BackendStatus> {
        let statuses = self.registry.statuses().into_iter();
        statuses.filter(|status| !status.backend.addresses.is_fixed())
    }

    fn wanted(&self) -> Vec<Wanted> {
        let wanted = |status: BackendStatus| Wanted {
            host: status.backend.authority.host().to_owned(),
            state: status.name,
            is_suspect: status.backend.addresses.take_suspicion(),
        };
        self.members().map(wanted).collect()
    }

    fn start_lookup(&self, host: String) {
        let (lookup, results, name) =
            (Arc::clone(&self.lookup), self.results.clone(), host.clone());
        let look_up = move || {
            let addresses = lookup(&host);
            // Fails only if the resolver has ended meanwhile.
            let _ = results.send(Found { host, addresses });
        };
        if let Err(error) = thread::Builder::new().name("lookup".to_owned()).spawn(look_up) {
            let error = io::Error::other(format!("cannot start a thread: {error}"));
            // Never fails: this thread has the receiver.
            let _ = self.results.send(Found { host: name, addresses: Err(error) });
        }
    }

    /// Reports the result of a lookup to the registry, for each backend with that host.
    fn handle(&mut self, Found { host, addresses }: Found) {
        let found = match addresses {
            Ok(ips) if ips.is_empty() => Err("no address".to_owned()),
            found => found.map_err(|error| reason(&error)),
        };
        let mut backends: Vec<Arc<Backend>> = self.members().map(|status| status.backend).collect();
        backends.retain(|backend| backend.authority.host() == host);
        let had_addresses = backends.iter().any(|backend| !backend.addresses.is_empty());
        for backend in backends {
            let resolution = match &found {
                Ok(ips) => self.resolution(&backend, ips),
                Err(reason) => Resolution::Failed(format!("cannot resolve \"{host}\": {reason}")),
            };
            self.registry.resolve(backend.id, &resolution, Instant::now());
        }
        match (self.names.ended(&host, found.is_ok(), Instant::now()), found) {
            (Turn::Failing, Err(reason)) if had_addresses => {
                log::warn!(
                    event = "state";
                    "cannot resolve \"{host}\" any more: {reason}; its last addresses stay"
                );
            }
            (Turn::Recovered, _) if had_addresses => {
                log::info!(event = "state"; "\"{host}\" resolves again");
            }
            _ => {}
        }
    }

    /// The resolution of a backend's name, without our own listeners.
    fn resolution(&mut self, backend: &Backend, ips: &[IpAddr]) -> Resolution {
        let (name, port) = (&backend.name, backend.authority.port());
        let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, port));
        let is_own = |address: &SocketAddr| net::is_own_listener(*address, &self.listening);
        let (own, usable): (Vec<_>, Vec<_>) = addresses.partition(is_own);
        let Some(first) = own.first().copied() else {
            self.dropped.remove(name);
            return Resolution::Addresses(usable);
        };
        // Only the first one is kept, and it is kept before the registry has it: the start that waits
        // for the registry finds it.
        let _ = self.own.set(name.clone());
        let is_known = self.dropped.insert(name.clone(), own.clone()) == Some(own);
        if usable.is_empty() {
            return Resolution::Own(format!(
                "\"{}\" resolves to the balancer itself ({first}), so requests would loop",
                backend.authority.host()
            ));
        }
        if !is_known {
            log::error!(
                event = "state", backend = name.as_str();
                "backend {name}: its address {first} is the balancer itself and is not used"
            );
        }
        Resolution::Addresses(usable)
    }
}

/// The resolver's own words, without the part that is the same in every error.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendSpec, Config, HostPort};
    use crate::upstream::health::State;
    use parking_lot::Mutex;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    /// The port on which the balancer of a test listens.
    const OWN: u16 = 9;

    /// A name server: the addresses of each name. A name without an entry hangs until there is one.
    #[derive(Default)]
    struct NameServer {
        zone: Mutex<BTreeMap<String, Vec<IpAddr>>>,
        changed: parking_lot::Condvar,
        lookups: Mutex<Vec<String>>,
    }

    impl NameServer {
        fn set(&self, host: &str, last_bytes: &[u8]) {
            let ips = last_bytes.iter().map(|last| IpAddr::from([127, 0, 0, *last])).collect();
            self.zone.lock().insert(host.to_owned(), ips);
            self.changed.notify_all();
        }

        fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            self.lookups.lock().push(host.to_owned());
            let mut zone = self.zone.lock();
            while !zone.contains_key(host) {
                self.changed.wait(&mut zone);
            }
            match &zone[host][..] {
                [] => Err(io::Error::other("no such name")),
                ips => Ok(ips.to_vec()),
            }
        }
    }

    /// A registry of these backends without checks, their name server and the resolver.
    fn start(backends: &[&str]) -> (Arc<Registry>, Arc<NameServer>, Resolver) {
        start_with(backends, |_| {})
    }

    fn start_with(
        backends: &[&str],
        fill: impl FnOnce(&NameServer),
    ) -> (Arc<Registry>, Arc<NameServer>, Resolver) {
        let mut config = Config::default();
        config.settings.health.checks = false;
        let spec = |text: &&str| BackendSpec::new(HostPort::parse(text).unwrap(), 1);
        config.backends = backends.iter().map(spec).collect();
        let registry = Arc::new(Registry::new(&config));
        let server = Arc::<NameServer>::default();
        fill(&server);
        let lookup = {
            let server = Arc::clone(&server);
            move |host: &str| server.lookup(host)
        };
        let listening = vec![([127, 0, 0, 1], OWN).into()];
        let resolver = Resolver::start(&registry, listening, Arc::new(lookup)).unwrap();
        (registry, server, resolver)
    }

    fn status(registry: &Registry, name: &str) -> BackendStatus {
        let mut statuses = registry.statuses().into_iter();
        statuses.find(|status| status.backend.name == name).unwrap()
    }

    #[track_caller]
    fn until(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < 20 * SECOND, "it never came true");
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn addresses(registry: &Registry, name: &str) -> Vec<String> {
        let all = status(registry, name).backend.addresses.all();
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_get_their_addresses_and_one_that_hangs_delays_no_other() {
        let (registry, server, resolver) =
            start(&["hangs:80", "app:80", "app:81", "none:80", "127.0.0.7:80"]);
        server.set("app", &[2, 3]);
        server.set("none", &[]);
        until(|| addresses(&registry, "app:80") == ["127.0.0.2:80", "127.0.0.3:80"]);
        until(|| addresses(&registry, "app:81") == ["127.0.0.2:81", "127.0.0.3:81"]);
        until(|| status(&registry, "none:80").state == State::Down);
        assert_eq!(status(&registry, "none:80").detail, "cannot resolve \"none\": no such name");
        assert_eq!(status(&registry, "hangs:80").state, State::Unknown);
        assert_eq!(registry.cluster().up(), 3);
        server.set("hangs", &[4]);
        resolver.wait_for_first_round(20 * SECOND);
        assert_eq!(registry.cluster().up(), 4);
        let mut lookups = server.lookups.lock().clone();
        lookups.sort_unstable();
        lookups.dedup();
        assert_eq!(lookups, ["app", "hangs", "none"], "an address is not looked up");
    }

    #[test]
    fn a_backend_comes_up_when_its_name_is_found_and_an_added_one_is_looked_up_at_once() {
        let (registry, server, _resolver) =
            start_with(&["app:80"], |server| server.set("app", &[]));
        until(|| status(&registry, "app:80").state == State::Down);
        server.set("app", &[2]);
        until(|| registry.cluster().up() == 1);
        server.set("late", &[3]);
        registry.add(&BackendSpec::new(HostPort::parse("late:80").unwrap(), 1));
        until(|| registry.cluster().up() == 2);
    }

    #[test]
    fn after_a_failed_connect_a_name_is_looked_up_again_soon() {
        use crate::upstream::health::{Observation, Outcome};
        let (registry, server, resolver) =
            start_with(&["app:80"], |server| server.set("app", &[2]));
        resolver.wait_for_first_round(20 * SECOND);
        server.set("app", &[3]);
        let (id, now) = (status(&registry, "app:80").backend.id, Instant::now());
        let failed = Observation::Attempt { outcome: Outcome::ConnectFailed, started: now };
        registry.observe(id, failed, "connection refused", now);
        until(|| addresses(&registry, "app:80") == ["127.0.0.3:80"]);
    }

    #[test]
    fn a_listener_of_our_own_is_not_used_and_is_found_by_the_start() {
        let (registry, _server, resolver) =
            start_with(&["loop:9", "mixed:9", "loop:8"], |server| {
                server.set("loop", &[1]);
                server.set("mixed", &[1, 2]);
            });
        resolver.wait_for_first_round(20 * SECOND);
        let looped = status(&registry, "loop:9");
        assert!(looped.detail.contains("the balancer itself (127.0.0.1:9)"), "{}", looped.detail);
        assert_eq!((looped.state, looped.backend.addresses.all()), (State::Down, vec![]));
        assert_eq!(addresses(&registry, "mixed:9"), ["127.0.0.2:9"]);
        assert_eq!(addresses(&registry, "loop:8"), ["127.0.0.1:8"], "it is another port");
        assert!(resolver.own_listener().is_some());
    }

    #[test]
    fn the_thread_ends_although_a_lookup_hangs() {
        let (registry, server, resolver) = start(&["hangs:80"]);
        until(|| !server.lookups.lock().is_empty());
        drop(resolver);
        // The thread and this test have the registry, the lookup has not.
        until(|| Arc::strong_count(&registry) == 1);
        server.set("hangs", &[]);
    }
}
