//! The configuration from everything that was given: flag, then environment, then file, then
//! default, for each setting. Pure: resolves no names, prints nothing, and may be called again with
//! another text of the file.

use super::backend::{BackendSpec, HostPort};
use super::file::{ConfigFile, Entry};
use super::limits::MIN_HEALTH_PERIOD;
use super::problem::{FileText, Position, Problem, Severity, Span};
use super::table::Setting;
use super::values::parse_duration;
use super::{Boot, Config};
use std::fmt;
use std::net::SocketAddr;

/// The backends if none are given.
const DEFAULT_BACKENDS: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"];

/// A value that was typed or is in the environment, in its text form.
#[derive(Clone, Debug)]
pub struct Given {
    /// The setting.
    pub setting: Setting,
    /// The valid text.
    pub text: String,
    /// The flag or the variable.
    pub origin: Origin,
}

/// The origin of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This flag, or `PERIOD`.
    Flag(String),
    /// This variable.
    Environment(&'static str),
    /// The key at this position of a file.
    File(String, Position),
    /// Nothing was given.
    Default,
}

/// A configuration, and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration. Names are not resolved yet.
    pub config: Config,
    /// Each setting with the origin of its value, in the order of the table.
    pub origins: Vec<(Setting, Origin)>,
    /// The file, if there is one: its keys with their values.
    pub file: Option<ConfigFile>,
    /// Values that are valid and likely not meant.
    pub warnings: Vec<Problem>,
}

/// Makes the configuration, or finds all problems of the file. With `inherited` addresses, which a
/// service manager listens on, host and port are not used.
pub fn load(
    given: &[Given],
    text: Option<FileText>,
    inherited: &[SocketAddr],
) -> Result<Loaded, Vec<Problem>> {
    let file = text.map(ConfigFile::read).transpose()?;
    let mut loaded =
        Loaded { config: Config::default(), origins: Vec::new(), file, warnings: Vec::new() };
    for setting in Setting::all() {
        let (text, origin) = loaded.winner(&setting, given);
        if let Some(text) = text {
            let set = setting.set(&mut loaded.config, &text);
            set.map_err(|error| vec![Problem::new(&error).of(&setting.label())])?;
        }
        loaded.origins.push((setting, origin));
    }
    let boot = &mut loaded.config.boot;
    boot.listen = match inherited {
        [] => boot.literal().into_iter().collect(),
        _ => inherited.to_vec(),
    };
    if loaded.origin(Setting::is_backends) == &Origin::Default {
        loaded.config.backends = default_backends(&loaded.config.boot);
    }
    loaded.check_health_url()?;
    loaded.warn_of_short_period(given);
    Ok(loaded)
}

impl Loaded {
    /// The text of a setting and where it is from.
    fn winner(&self, setting: &Setting, given: &[Given]) -> (Option<String>, Origin) {
        if let Some(given) = given.iter().find(|given| given.setting.flag == setting.flag) {
            return (Some(given.text.clone()), given.origin.clone());
        }
        match self.file.as_ref().and_then(|file| Some((file, file.entry(setting)?))) {
            Some((file, entry)) => {
                let position = file.text.position(entry.key_span.start);
                (Some(entry.text()), Origin::File(file.text.name().to_owned(), position))
            }
            None => (None, Origin::Default),
        }
    }

    /// The origin of the setting that is this one.
    pub fn origin(&self, is_it: impl Fn(&Setting) -> bool) -> &Origin {
        let found = self.origins.iter().find(|(setting, _)| is_it(setting));
        found.map_or(&Origin::Default, |(_, origin)| origin)
    }

    /// The file and the values in it of the setting that is this one, if they are in use.
    fn in_file(&self, is_it: impl Fn(&Setting) -> bool) -> Option<(&FileText, &Entry)> {
        let file = self.file.as_ref()?;
        let entry = file.entries.iter().find(|entry| is_it(&entry.setting))?;
        let is_used = matches!(self.origin(&is_it), Origin::File(..));
        is_used.then_some((&file.text, entry))
    }

    /// A problem of the backend of this number: with its position, if it is in the file.
    pub fn backend_problem(&self, index: usize, message: &str) -> Problem {
        let problem = Problem::new(message);
        match self.in_file(Setting::is_backends) {
            Some((text, entry)) => match entry.items.get(index) {
                Some(item) => problem.of(&format!("{}[{index}]", entry.key)).at(text, &item.span),
                None => problem,
            },
            None => problem.of("--backend"),
        }
    }

    /// A problem of a setting: with its position, if it is in the file.
    pub fn problem(&self, is_it: impl Fn(&Setting) -> bool, message: &str) -> Problem {
        let problem = Problem::new(message);
        match self.in_file(&is_it) {
            Some((text, entry)) => problem.of(&entry.key).at(text, &span(entry)),
            None => match Setting::all().find(|setting| is_it(setting)) {
                Some(setting) => problem.of(&setting.label()),
                None => problem,
            },
        }
    }

    /// Checks use each backend's own host and port, so a whole URL has to be one of theirs.
    fn check_health_url(&self) -> Result<(), Vec<Problem>> {
        let authority = self.file.as_ref().and_then(|file| file.health_authority.as_ref());
        let is_other = |authority: &&HostPort| {
            self.config.backends.iter().all(|one| one.authority != **authority)
        };
        match (self.in_file(Setting::is_health_path), authority.filter(is_other)) {
            (Some((text, entry)), Some(authority)) => {
                let message = format!(
                    "no server is {authority}, and health checks use each server's own host and port; write the path alone, like {}",
                    entry.text()
                );
                Err(vec![Problem::new(&message).of(&entry.key).at(text, &span(entry))])
            }
            _ => Ok(()),
        }
    }

    fn warn_of_short_period(&mut self, given: &[Given]) {
        let (text, _) = match Setting::all().find(Setting::is_period) {
            Some(setting) => self.winner(&setting, given),
            None => return,
        };
        let period = text.and_then(|text| parse_duration(&text).ok());
        if let Some(period) = period.filter(|period| *period < MIN_HEALTH_PERIOD) {
            let message =
                format!("a health period of {period:?} is too short: using {MIN_HEALTH_PERIOD:?}");
            self.warnings.push(self.problem(Setting::is_period, &message).with(Severity::Warning));
        }
    }
}

/// All values of an entry.
fn span(entry: &Entry) -> Span {
    match (entry.items.first(), entry.items.last()) {
        (Some(first), Some(last)) => first.span.start..last.span.end,
        _ => entry.key_span.clone(),
    }
}

/// The default backends without those on our own ports.
fn default_backends(boot: &Boot) -> Vec<BackendSpec> {
    let is_ours = |port| match boot.listen.as_slice() {
        [] => port == boot.port,
        listen => listen.iter().any(|ours| ours.port() == port),
    };
    let backends = DEFAULT_BACKENDS.iter().filter_map(|text| BackendSpec::parse(text).ok());
    backends.filter(|backend| !is_ours(backend.authority.port())).collect()
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(name, position) => write!(f, "{name}:{position}"),
            Self::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::to_json;
    use super::*;

    const EVERYTHING: &str = include_str!("../../examples/everything.json");

    fn everything() -> Loaded {
        load(&[], Some(FileText::new("f", EVERYTHING)), &[]).unwrap()
    }

    fn from_file(text: &str) -> Result<Loaded, Vec<Problem>> {
        load(&[], Some(FileText::new("f", text)), &[])
    }

    fn typed(key: &str, text: &str) -> Given {
        let setting = Setting::of_key(key).unwrap();
        Given { setting, text: text.to_owned(), origin: Origin::Flag(setting.label()) }
    }

    #[test]
    fn the_example_with_everything_has_every_setting_with_another_value_than_the_default() {
        let loaded = everything();
        let default = load(&[], None, &[]).unwrap();
        for (setting, origin) in &loaded.origins {
            assert!(matches!(origin, Origin::File(..)), "{} is missing: {origin:?}", setting.flag);
            let shown = setting.show(&loaded.config);
            assert_ne!(shown, setting.show(&default.config), "{}", setting.flag);
        }
    }

    #[test]
    fn for_every_setting_a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let file = everything();
        let default = load(&[], None, &[]).unwrap();
        for setting in Setting::all() {
            // Each source has the default value of another one, so that the winner shows.
            let in_file = setting.show(&file.config).unwrap();
            let unset = "7".to_owned();
            let other = setting.show(&default.config).unwrap_or(unset);
            let other = match setting.flag {
                "trusted-proxies" => "192.0.2.0/24".to_owned(),
                "admin" => "off".to_owned(),
                "control-on-data-port" => "all".to_owned(),
                _ => other,
            };
            let origin = Origin::Flag(setting.label());
            let one = Given { setting, text: other.clone(), origin: origin.clone() };
            let typed = load(std::slice::from_ref(&one), Some(FileText::new("f", EVERYTHING)), &[])
                .unwrap();
            let mut expected = Config::default();
            setting.set(&mut expected, &other).unwrap();
            assert_eq!(setting.show(&typed.config), setting.show(&expected), "{}", setting.flag);
            let is_it = |row: &Setting| row.flag == setting.flag;
            assert_eq!(typed.origin(is_it), &origin);
            let origin = Origin::Environment("VARIABLE");
            let one = Given { origin: origin.clone(), ..one };
            let loaded = load(&[one], Some(FileText::new("f", EVERYTHING)), &[]).unwrap();
            assert_eq!(loaded.origin(is_it), &origin);
            assert_eq!(setting.show(&loaded.config), setting.show(&expected));
            assert_ne!(Some(in_file), setting.show(&expected), "{}", setting.flag);
            for (row, origin) in typed.origins.iter().filter(|(row, _)| !is_it(row)) {
                assert!(matches!(origin, Origin::File(..)));
                assert_eq!(row.show(&typed.config), row.show(&file.config), "{}", row.flag);
            }
        }
    }

    #[test]
    fn every_value_of_a_printed_configuration_is_read_as_it_was() {
        for loaded in [everything(), load(&[], None, &[]).unwrap()] {
            let again = from_file(&to_json(&loaded.config)).unwrap();
            assert_eq!(again.config, loaded.config);
        }
        let none = from_file("{\"servers\": []}").unwrap().config;
        assert_eq!(from_file(&to_json(&none)).unwrap().config, none);
    }

    #[test]
    fn odd_but_valid_values_are_printed_as_they_are() {
        for text in [
            "{\"host\": \"007\"}",
            "{\"head_timeout\": 0.0001}",
            "{\"trusted_proxies\": []}",
            "{\"trusted_proxies\": [\"\", \"::1\"]}",
            "{\"max_body\": 18446744073709551615}",
            "{\"no_health_checks\": false}",
        ] {
            let config = from_file(text).unwrap().config;
            assert_eq!(from_file(&to_json(&config)).unwrap().config, config, "{text}");
        }
    }

    #[test]
    fn an_origin_is_the_position_of_the_key() {
        let loaded = from_file("{\n    \"rise\": 3}").unwrap();
        let origin = loaded.origin(|setting| setting.flag == "rise");
        assert_eq!(origin.to_string(), "f:2:5");
    }

    #[test]
    fn backends_are_taken_as_a_whole_and_none_are_none() {
        let names = |loaded: &Loaded| {
            loaded.config.backends.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&from_file("{\"servers\": []}").unwrap()), Vec::<String>::new());
        assert_eq!(
            names(&from_file("{\"port\": 8081}").unwrap()),
            ["127.0.0.1:8080", "127.0.0.1:8082"]
        );
        let typed = [typed("backend", "c:3")];
        let file = FileText::new("f", "{\"servers\": [\"a:1\", \"b:2\"]}");
        assert_eq!(names(&load(&typed, Some(file), &[]).unwrap()), ["c:3"]);
    }

    #[test]
    fn a_whole_health_url_is_one_of_the_servers_or_an_error() {
        let with = |url: &str| {
            from_file(&format!(
                "{{\"health_check_url\": \"{url}\",\n\"servers\": [\"a:1\", \"b:80\"]}}"
            ))
        };
        for url in ["http://a:1/x", "http://B/x", "/x"] {
            assert_eq!(with(url).unwrap().config.settings.health.path, "/x");
        }
        for url in ["http://a:2/x", "http://c:1/x"] {
            let problem = with(url).unwrap_err()[0].to_string();
            assert!(problem.starts_with("f:1:22: health_check_url: no server is "), "{problem}");
            assert!(problem.ends_with("write the path alone, like /x"), "{problem}");
        }
        let typed = [typed("health_path", "/y")];
        let file = FileText::new("f", "{\"health_check_url\": \"http://other/x\"}");
        assert!(load(&typed, Some(file), &[]).is_ok(), "the URL is not in use");
    }

    #[test]
    fn a_period_that_is_too_short_is_raised_with_a_warning_at_its_position() {
        let loaded = from_file("{\"health_check_interval\": 0.2}").unwrap();
        assert_eq!(loaded.config.settings.health.period, MIN_HEALTH_PERIOD);
        let warning = &loaded.warnings[0];
        assert!(
            !warning.is_error() && warning.to_string().starts_with("f:1:27: health_check_interval")
        );
        assert!(load(&[typed("period", "5s")], None, &[]).unwrap().warnings.is_empty());
    }

    #[test]
    fn a_literal_host_needs_no_resolver() {
        let listen = |text: &str| from_file(text).unwrap().config.boot.listen;
        assert_eq!(listen("{\"host\": \"::1\", \"port\": 7}"), ["[::1]:7".parse().unwrap()]);
        assert_eq!(listen("{\"host\": \"localhost\"}"), []);
    }
}
