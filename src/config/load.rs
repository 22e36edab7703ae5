//! The configuration from everything that was given: flag, then environment, then file, then
//! default, for each setting. Pure: resolves no names, prints nothing, and may be called again with
//! another text of the file.

use super::Config;
use super::backend::{BackendSpec, HostPort};
use super::file::ConfigFile;
use super::limits::MIN_HEALTH_PERIOD;
use super::problem::{FileText, Position, Problem, Severity, Span};
use super::table::Setting;
use super::values::parse_duration;
use std::fmt;

/// The backends if none are given.
const DEFAULT_BACKENDS: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"];

/// A value that was typed or is in the environment, in its text form.
#[derive(Clone, Debug)]
pub struct Given {
    /// The setting.
    pub setting: Setting,
    /// The valid text.
    pub text: String,
    /// Whether it is from the environment.
    pub is_environment: bool,
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
    /// What is valid and likely not meant.
    pub warnings: Vec<Problem>,
}

/// Makes the configuration, or finds all problems of the file.
pub fn load(given: &[Given], text: Option<FileText>) -> Result<Loaded, Vec<Problem>> {
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
    boot.listen = boot.literal().into_iter().collect();
    let own_port = boot.port;
    if loaded.origin(Setting::is_backends) == &Origin::Default {
        loaded.config.backends = default_backends(own_port);
    }
    loaded.check_health_url()?;
    loaded.warn_of_short_period(given);
    Ok(loaded)
}

impl Loaded {
    /// The text of a setting and where it is from.
    fn winner(&self, setting: &Setting, given: &[Given]) -> (Option<String>, Origin) {
        if let Some(given) = given.iter().find(|given| given.setting.flag == setting.flag) {
            let origin = match setting.env.filter(|_| given.is_environment) {
                Some(variable) => Origin::Environment(variable),
                None => Origin::Flag(setting.label()),
            };
            return (Some(given.text.clone()), origin);
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
    fn in_file(
        &self,
        is_it: impl Fn(&Setting) -> bool,
    ) -> Option<(&FileText, &super::file::Entry)> {
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
fn span(entry: &super::file::Entry) -> Span {
    match (entry.items.first(), entry.items.last()) {
        (Some(first), Some(last)) => first.span.start..last.span.end,
        _ => entry.key_span.clone(),
    }
}

/// The default backends without our own port.
fn default_backends(own_port: u16) -> Vec<BackendSpec> {
    let backends = DEFAULT_BACKENDS.iter().filter_map(|text| BackendSpec::parse(text).ok());
    backends.filter(|backend| backend.authority.port() != own_port).collect()
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
