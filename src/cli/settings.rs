//! The flags of settings, made from the table in `config`.

use super::UsageError;
use crate::config::{Form, ON, Setting, Settings};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// The settings of the command line, as validated text.
#[derive(Debug)]
pub(super) struct SettingArgs {
    given: Vec<(Setting, String)>,
}

impl SettingArgs {
    /// The text of a setting, if it was given.
    pub(super) fn text(&self, flag: &str) -> Option<&str> {
        let mut given = self.given.iter();
        given.find(|(setting, _)| setting.flag == flag).map(|(_, text)| text.as_str())
    }

    /// The defaults, overridden by the given settings.
    pub(super) fn settings(&self) -> Result<Settings, UsageError> {
        let mut settings = Settings::default();
        for (setting, text) in &self.given {
            setting
                .set(&mut settings, text)
                .map_err(|error| UsageError::bad(format!("--{}: {error}", setting.flag)))?;
        }
        Ok(settings)
    }
}

fn arg(setting: Setting) -> Arg {
    let default = setting.show(&Settings::default());
    let help = match default {
        Some(default) => format!("{} [default: {default}]", setting.help),
        None => setting.help.to_owned(),
    };
    let check = move |text: &str| {
        setting.set(&mut Settings::default(), text.trim()).map(|()| text.trim().to_owned())
    };
    let mut arg = Arg::new(setting.flag).help(help).help_heading(setting.section);
    if let Some(variable) = setting.env {
        arg = arg.env(variable);
    }
    if let Some(letter) = setting.short {
        arg = arg.short(letter);
    }
    match setting.form {
        Form::Positional => arg.value_name(setting.flag).value_parser(check),
        Form::Switch => arg.long(setting.flag).action(ArgAction::SetTrue),
        Form::Value(name) | Form::List(name) => {
            let is_list = setting.form == Form::List(name);
            arg.long(setting.flag)
                .aliases(setting.aliases)
                .value_name(name)
                .value_parser(check)
                .action(if is_list { ArgAction::Append } else { ArgAction::Set })
        }
    }
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
        let text = |setting: &Setting| match setting.form {
            Form::Switch => matches.get_flag(setting.flag).then(|| ON.to_owned()),
            _ => {
                let texts: Vec<&String> = matches.get_many(setting.flag)?.collect();
                Some(texts.into_iter().map(String::as_str).collect::<Vec<_>>().join(","))
            }
        };
        let given = Setting::all().filter_map(|setting| Some((setting, text(&setting)?)));
        Ok(Self { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
