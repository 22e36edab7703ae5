//! The effects of another text of the file on a running balancer: the new values, and the words for
//! them. Pure.
//!
//! A key wins if its value differs between the last load and this one; every other key keeps the
//! running value, which the control API may have changed. The same holds for each server, known by
//! its host and port. Flags and the environment win at each load, so their keys never differ.

use super::backend::{BackendSpec, HostPort};
use super::load::Loaded;
use super::table::Setting;
use super::{Boot, Config, Settings};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// The most servers whose new weights are named one by one.
const MAX_NAMED: usize = 3;

/// The effects of a reload, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effects {
    /// The changes that were applied, as `algorithm: round_robin → least_conn`.
    pub changes: Vec<String>,
    /// The changes that take effect at the next start only.
    pub next_start: Vec<String>,
    /// The values that the control API has changed and that stay, because the file has not changed
    /// there.
    pub kept: Vec<String>,
}

/// The servers after a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// The members from now on.
    pub members: Vec<BackendSpec>,
    /// The members that are to be removed.
    pub leaving: Vec<BackendSpec>,
}

/// Applies the settings that differ between two loads to the running ones. `started` cannot change.
pub fn merge_settings(
    (last, new): (&Loaded, &Loaded),
    started: &Boot,
    running: &mut Settings,
) -> Effects {
    let mut effects = Effects::default();
    let mut config = Config { boot: started.clone(), settings: running.clone(), backends: vec![] };
    for setting in Setting::all().filter(|setting| !setting.is_backends()) {
        let [before, wanted, now] =
            [&last.config, &new.config, &config].map(|config| setting.show(config));
        if wanted == now {
            continue;
        }
        let key = key(&setting, new, last);
        let change = format!("{key}: {} → {}", shown(now.as_ref()), shown(wanted.as_ref()));
        if !setting.may_change() {
            effects.next_start.push(change);
        } else if before == wanted {
            effects.kept.push(format!("{key}: {}", shown(now.as_ref())));
        } else {
            setting.copy(&mut config, &new.config);
            effects.changes.push(change);
        }
    }
    *running = config.settings;
    effects
}

/// The key as the file has it.
fn key(setting: &Setting, new: &Loaded, last: &Loaded) -> String {
    let mut files = [new, last].into_iter().filter_map(|loaded| loaded.file.as_ref());
    let entry = files.find_map(|file| file.entry(setting));
    entry.map_or_else(|| setting.key(), |entry| entry.key.clone())
}

fn shown(value: Option<&String>) -> &str {
    value.map_or("none", String::as_str)
}

/// Applies the servers that differ between two lists to the running ones.
pub fn merge_servers(
    last: &[BackendSpec],
    new: &[BackendSpec],
    running: &[BackendSpec],
) -> (Servers, Effects) {
    let [before, wanted, now] = [last, new, running].map(weights);
    let (mut servers, mut added, mut reweighted) = (Servers::default(), 0, Vec::new());
    let (mut kept_added, mut kept_removed, mut kept_weights) = (0, 0, Vec::new());
    for server in new {
        let name = &server.authority;
        let has_changed = before.get(name) != Some(&server.weight);
        match now.get(name) {
            Some(weight) if has_changed || *weight == server.weight => {
                if *weight != server.weight {
                    reweighted.push(format!("weight of {name}: {weight} → {}", server.weight));
                }
                servers.members.push(server.clone());
            }
            Some(weight) => {
                kept_weights.push(format!("weight of {name}: {weight}"));
                servers.members.push(BackendSpec { weight: *weight, ..server.clone() });
            }
            None if has_changed => {
                added += 1;
                servers.members.push(server.clone());
            }
            None => kept_removed += 1,
        }
    }
    for server in running.iter().filter(|one| !wanted.contains_key(&one.authority)) {
        if before.contains_key(&server.authority) {
            servers.leaving.push(server.clone());
        } else {
            kept_added += 1;
            servers.members.push(server.clone());
        }
    }
    let counts = |added, removed| counts(added, removed).into_iter();
    let changes = counts(added, servers.leaving.len()).chain(first(reweighted)).collect();
    let kept = counts(kept_added, kept_removed).chain(first(kept_weights)).collect();
    (servers, Effects { changes, kept, ..Effects::default() })
}

fn weights(servers: &[BackendSpec]) -> HashMap<&HostPort, u32> {
    servers.iter().map(|server| (&server.authority, server.weight)).collect()
}

fn counts(added: usize, removed: usize) -> Option<String> {
    let counts = [('+', added), ('-', removed)].into_iter().filter(|(_, count)| *count > 0);
    let counts: Vec<String> = counts.map(|(sign, count)| format!("{sign}{count}")).collect();
    (!counts.is_empty()).then(|| format!("servers: {}", counts.join(" ")))
}

/// The first changes of weights, and the number of the others.
fn first(mut weights: Vec<String>) -> Vec<String> {
    let others = weights.len().saturating_sub(MAX_NAMED);
    if others > 0 {
        weights.truncate(MAX_NAMED);
        weights.push(format!("weights of {others} other server(s)"));
    }
    weights
}

impl Effects {
    /// Adds the effects on another part.
    pub fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.next_start.extend(other.next_start);
        self.kept.extend(other.kept);
    }

    /// Whether neither now nor at the next start anything changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.next_start.is_empty()
    }
}

impl fmt::Display for Effects {
    /// All effects in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            f.write_str("no changes")?;
        }
        f.write_str(&self.changes.join("; "))?;
        for change in &self.next_start {
            write!(f, "; {change} takes effect at the next start")?;
        }
        if !self.kept.is_empty() {
            write!(f, "; kept from the control API: {}", self.kept.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, FileText, Given, Origin, load};
    use super::*;
    use std::time::Duration;

    fn loaded(text: &str) -> Loaded {
        load(&[], Some(FileText::new("f", text)), &[]).unwrap()
    }

    /// The settings after a reload, and its effects in one line.
    fn reloaded(last: &str, new: &str, change: impl Fn(&mut Settings)) -> (Settings, String) {
        let (last, new) = (loaded(last), loaded(new));
        let mut running = last.config.settings.clone();
        change(&mut running);
        let effects = merge_settings((&last, &new), &last.config.boot, &mut running);
        (running, effects.to_string())
    }

    #[test]
    fn a_key_that_has_changed_in_the_file_wins_and_every_other_one_keeps_its_running_value() {
        let by_api = |settings: &mut Settings| settings.algorithm = Algorithm::Random;
        let rr = "{\"algorithm\": \"rr\"}";
        let least = "{\"algorithm\": \"least_conn\"}";
        let kept = "no changes; kept from the control API: algorithm: random";
        for (last, new, algorithm, effects) in [
            (rr, least, Algorithm::LeastConn, "algorithm: random → least_conn"),
            (rr, rr, Algorithm::Random, kept),
            (rr, "{}", Algorithm::Random, kept),
            (least, "{}", Algorithm::RoundRobin, "algorithm: random → round_robin"),
            (rr, "{\"algorithm\": \"random\"}", Algorithm::Random, "no changes"),
        ] {
            let (running, line) = reloaded(last, new, by_api);
            assert_eq!((running.algorithm, line.as_str()), (algorithm, effects), "{last} {new}");
        }
    }

    #[test]
    fn each_change_is_named_by_the_key_of_the_file_with_both_values() {
        let last = "{\"health_check_interval\": 5, \"max_body\": 7, \"no_health_checks\": true}";
        let new = "{\"health_check_interval\": 60, \"body_timeout\": \"10s\"}";
        let (running, line) = reloaded(last, new, |_| {});
        assert_eq!(
            line,
            "health_check_interval: 5s → 1m; no_health_checks: true → false; max_body: 7 → none; \
             body_timeout: 30s → 10s"
        );
        assert_eq!(running, loaded(new).config.settings);
        assert_eq!(running.timeouts.body, Duration::from_secs(10));
    }

    #[test]
    fn every_setting_of_the_file_is_applied_or_named_for_the_next_start() {
        let (last, new) = (loaded("{}"), loaded(include_str!("../../examples/everything.json")));
        let mut running = last.config.settings.clone();
        let effects = merge_settings((&last, &new), &last.config.boot, &mut running);
        assert_eq!(running, new.config.settings);
        let settings = effects.changes.len() + effects.next_start.len();
        assert_eq!(settings, Setting::all().count() - 1, "the servers are apart: {effects:?}");
        let (host, ..) = effects.next_start[0].split_once(':').unwrap();
        assert_eq!((effects.next_start.len(), host), (7, "host"));
    }

    #[test]
    fn a_change_for_the_next_start_is_named_until_it_is_taken_back() {
        let (started, changed) = (loaded("{\"port\": 1}"), loaded("{\"port\": 2}"));
        let mut running = Settings::default();
        let mut line = |last: &Loaded, new: &Loaded| {
            merge_settings((last, new), &started.config.boot, &mut running).to_string()
        };
        let pending = "no changes; port: 1 → 2 takes effect at the next start";
        assert_eq!(line(&started, &changed), pending);
        assert_eq!(line(&changed, &changed), pending);
        assert_eq!(line(&changed, &started), "no changes");
    }

    #[test]
    fn a_flag_wins_over_the_file_at_a_reload_too() {
        let setting = Setting::of_key("algorithm").unwrap();
        let given =
            Given { setting, text: "p2c".to_owned(), origin: Origin::Flag("-a".to_owned()) };
        let load = |text| {
            let text = FileText::new("f", text);
            load(std::slice::from_ref(&given), Some(text), &[]).unwrap()
        };
        let (last, new) = (load("{\"algorithm\": \"rr\"}"), load("{\"algorithm\": \"random\"}"));
        let mut running = last.config.settings.clone();
        let effects = merge_settings((&last, &new), &last.config.boot, &mut running);
        assert_eq!((running.algorithm, effects.is_empty()), (Algorithm::P2c, true));
    }

    fn specs(text: &str) -> Vec<BackendSpec> {
        text.split_whitespace()
            .map(|name| BackendSpec::parse(&format!("h:{name}")).unwrap())
            .collect()
    }

    fn ports(specs: &[BackendSpec]) -> String {
        let texts: Vec<String> = specs.iter().map(ToString::to_string).collect();
        texts.join(" ").replace("h:", "")
    }

    #[test]
    fn a_server_that_has_changed_in_the_file_wins_and_every_other_one_stays_as_it_is() {
        // Last list, new list, running members: members, those to be removed, effects.
        for (last, new, running, members, leaving, effects) in [
            ("1 2", "1 2", "1 2", "1 2", "", "no changes"),
            ("1 2", "2 1", "1 2", "2 1", "", "no changes"),
            ("1", "1 2", "1", "1 2", "", "servers: +1"),
            ("1 2", "1", "1 2", "1", "2", "servers: -1"),
            ("1 2", "1 3", "1 2", "1 3", "2", "servers: +1 -1"),
            ("1 2", "", "1 2", "", "1 2", "servers: -2"),
            ("1", "1=3", "1", "1=3", "", "weight of h:1: 1 → 3"),
            // The control API has added 9.
            ("1", "1", "1 9", "1 9", "", "no changes; kept from the control API: servers: +1"),
            ("1", "2", "1 9", "2 9", "1", "servers: +1 -1; kept from the control API: servers: +1"),
            ("1", "1 9", "1 9", "1 9", "", "no changes"),
            ("1", "1 9=2", "1 9", "1 9=2", "", "weight of h:9: 1 → 2"),
            // It has removed 1.
            ("1 2", "1 2", "2", "2", "", "no changes; kept from the control API: servers: -1"),
            ("1 2", "1=5 2", "2", "1=5 2", "", "servers: +1"),
            ("1 2", "2", "2", "2", "", "no changes"),
            // It has changed the weight of 1.
            (
                "1 2",
                "1 2",
                "1=7 2",
                "1=7 2",
                "",
                "no changes; kept from the control API: weight of h:1: 7",
            ),
            ("1 2", "1=3 2", "1=7 2", "1=3 2", "", "weight of h:1: 7 → 3"),
            ("1 2", "1=7 2", "1=7 2", "1=7 2", "", "no changes"),
            (
                "1 2 3 4 5",
                "1=2 2=2 3=2 4=2 5=2",
                "1 2 3 4 5",
                "1=2 2=2 3=2 4=2 5=2",
                "",
                "weight of h:1: 1 → 2; weight of h:2: 1 → 2; weight of h:3: 1 → 2; weights of 2 other server(s)",
            ),
        ] {
            let row = format!("{last} | {new} | {running}");
            let (servers, shown) = merge_servers(&specs(last), &specs(new), &specs(running));
            assert_eq!(ports(&servers.members), members, "{row}");
            assert_eq!(ports(&servers.leaving), leaving, "{row}");
            assert_eq!(shown.to_string(), effects, "{row}");
        }
    }
}
