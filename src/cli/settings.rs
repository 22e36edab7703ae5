//! The flags of settings, made from the table in `config`.

use super::UsageError;
use crate::config::{Config, Form, Given, ON, Origin, Setting};
use clap::builder::{PossibleValue, TypedValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::ffi::OsStr;

/// The settings of the command line and the environment, as text.
#[derive(Debug)]
pub(super) struct SettingArgs {
    given: Vec<Given>,
}

impl SettingArgs {
    /// The given values. Each part is valid; an error is about the parts together.
    pub(super) fn into_given(self) -> Result<Vec<Given>, UsageError> {
        for Given { setting, text, .. } in &self.given {
            setting
                .set(&mut Config::default(), text)
                .map_err(|error| UsageError::bad(format!("{}: {error}", setting.label())))?;
        }
        Ok(self.given)
    }
}

/// The parser of one value: its text, if the setting accepts it.
#[derive(Clone)]
struct SettingParser(Setting);

impl TypedValueParser for SettingParser {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let setting = self.0;
        let check = move |text: &str| {
            let text = text.trim();
            setting.set(&mut Config::default(), text).map(|()| text.to_owned())
        };
        check.parse_ref(command, arg, value)
    }

    /// An empty variable is not given.
    fn parse_ref_(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<String, clap::Error> {
        if source == ValueSource::EnvVariable && value.is_empty() {
            return Ok(String::new());
        }
        self.parse_ref(command, arg, value)
    }

    /// For completions; a value may have other spellings too.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        match self.0.form {
            Form::Choice(_, names) | Form::Optional(_, names, _) => {
                Some(Box::new(names.iter().map(PossibleValue::new)))
            }
            _ => None,
        }
    }
}

fn arg(setting: Setting) -> Arg {
    let mut arg =
        Arg::new(setting.flag).help(setting.help_with_default()).help_heading(setting.section);
    if let Some(variable) = setting.env {
        arg = arg.env(variable);
    }
    if let Some(letter) = setting.short {
        arg = arg.short(letter);
    }
    let parser = ValueParser::new(SettingParser(setting));
    match setting.form {
        Form::Positional => arg.value_name(setting.flag).value_parser(parser),
        Form::Switch => arg.long(setting.flag).action(ArgAction::SetTrue),
        Form::Optional(name, _, default) => arg
            .long(setting.flag)
            .value_name(name)
            .value_parser(parser)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(default),
        Form::Value(name) | Form::Choice(name, _) | Form::List(name) => {
            let is_list = matches!(setting.form, Form::List(_));
            arg.long(setting.flag)
                .aliases(setting.aliases)
                .value_name(name)
                .value_parser(parser)
                // The help has them in its own words.
                .hide_possible_values(true)
                .action(if is_list { ArgAction::Append } else { ArgAction::Set })
        }
    }
}

/// The value of a setting, if it was typed or is in the environment. Nothing but commas is not given.
fn given(setting: Setting, matches: &ArgMatches) -> Option<Given> {
    let text = match setting.form {
        Form::Switch => matches.get_flag(setting.flag).then(|| ON.to_owned())?,
        _ => {
            let texts: Vec<&str> =
                matches.get_many::<String>(setting.flag)?.map(String::as_str).collect();
            texts.join(",")
        }
    };
    let is_empty = text.chars().all(|letter| letter == ',' || letter.is_whitespace());
    let is_environment = matches.value_source(setting.flag) == Some(ValueSource::EnvVariable);
    let origin = match setting.env.filter(|_| is_environment) {
        Some(variable) => Origin::Environment(variable),
        None => Origin::Flag(setting.label()),
    };
    (!is_empty).then_some(Given { setting, text, origin })
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        Setting::all().fold(command, |command, setting| command.arg(arg(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { given: Setting::all().filter_map(|setting| given(setting, matches)).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
