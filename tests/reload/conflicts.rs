//! Changes of the control API and of the file: what has changed in the file wins, all else stays.

use super::{Configured, plain, text};
use crate::support::Origin;
use lb_threads::config::{Algorithm, BackendSpec};
use lb_threads::upstream::backend::{AdminState, BackendId};
use lb_threads::upstream::registry::Registry;

fn registry(configured: &Configured) -> &Registry {
    configured.lb.balancer().registry()
}

fn id(configured: &Configured, origin: &Origin) -> BackendId {
    let mut statuses = registry(configured).statuses().into_iter();
    let found = statuses.find(|one| one.backend.authority == origin.address().into());
    found.expect("it is a member").backend.id
}

#[test]
fn servers_of_the_control_api_stay_until_the_file_changes_there() {
    let [one, two, added] = ["one", "two", "added"].map(Origin::named);
    let configured = Configured::start(&plain(&[&one, &two], ""));
    registry(&configured).add(&BackendSpec::from(added.address()));
    registry(&configured).remove(id(&configured, &one));
    let effects = configured.reload(&plain(&[&one, &two], ", \"rise\": 2"));
    assert_eq!(
        (effects.changes, effects.kept),
        (vec!["rise: 1 → 2".into()], vec!["servers: +1 -1".into()])
    );
    configured.lb.wait_for_up(2);
    assert_eq!(configured.bodies(2), ["added", "two"]);
    // The entry of the removed one changes, so it is a member again.
    let effects = configured.reload(&text(&[(&one, 2), (&two, 1)], ", \"rise\": 2"));
    assert_eq!(effects.changes, ["servers: +1"]);
    configured.lb.wait_for_up(3);
    // The added one comes into the file, and goes out of it.
    configured.reload(&text(&[(&one, 2), (&two, 1), (&added, 1)], ", \"rise\": 2"));
    let effects = configured.reload(&text(&[(&one, 2), (&two, 1)], ", \"rise\": 2"));
    assert_eq!(effects.changes, ["servers: -1"]);
    assert_eq!(configured.lb.up(), 2);
}

#[test]
fn an_algorithm_of_the_control_api_stays_until_the_file_names_another_one() {
    let origin = Origin::named("one");
    let configured = Configured::start(&plain(&[&origin], ""));
    configured.lb.change(|settings| settings.algorithm = Algorithm::Random);
    let effects = configured.reload(&plain(&[&origin], ", \"rise\": 2"));
    assert_eq!(effects.kept, ["algorithm: random"]);
    assert_eq!(configured.lb.balancer().settings().algorithm, Algorithm::Random);
    let effects = configured.reload(&plain(&[&origin], ", \"algorithm\": \"p2c\""));
    assert_eq!(effects.changes, ["algorithm: random → p2c", "rise: 2 → 1"]);
    assert_eq!(registry(&configured).algorithm(), Algorithm::P2c);
}

#[test]
fn a_drain_survives_a_reload_even_of_the_same_server() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let configured = Configured::start(&plain(&[&one, &two], ""));
    configured.lb.wait_for_up(2);
    assert!(registry(&configured).drain(id(&configured, &one)));
    configured.reload(&text(&[(&one, 5), (&two, 1)], ", \"fall\": 3"));
    let statuses = registry(&configured).statuses();
    assert_eq!(statuses[0].admin_state, AdminState::Draining);
    assert_eq!(statuses[0].backend.weight(), 5);
    assert_eq!(configured.bodies(2), ["two", "two"]);
}
