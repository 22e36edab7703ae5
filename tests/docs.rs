//! The documentation beside the program: its tables have every flag with its default, every code and
//! every reason, and nothing else.

use clap::{Arg, CommandFactory};
use lb_threads::admin::FAMILIES;
use lb_threads::cli::Args;
use lb_threads::config::{Algorithm, Config, Form, Setting};
use lb_threads::error::{Cause, Side};
use lb_threads::reason::Reason;
use std::collections::BTreeSet;

const README: &str = include_str!("../README.md");
const REFERENCE: &str = include_str!("../docs/reference.md");
const ARCHITECTURE: &str = include_str!("../ARCHITECTURE.md");
const HTTP: &str = include_str!("../docs/http.md");
/// Flags of other programs in the README's examples.
const FOREIGN_FLAGS: [&str; 5] = ["--all", "--release", "--directory", "--path", "--help"];

/// The cells of the tables of one section, row by row, without their heads.
fn table(section: &str) -> Vec<Vec<String>> {
    let text = REFERENCE.split("\n## ").find(|text| text.starts_with(section));
    let text = text.unwrap_or_else(|| panic!("the reference has a section {section}"));
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.replace('`', "").trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// The words of a text that look like this, without what stands around them.
fn words(text: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let words = text.split(|letter| !is_part(letter)).filter(|word| is_wanted(word));
    words.map(str::to_owned).collect()
}

fn flags(text: &str) -> BTreeSet<String> {
    words(text, |word| word.len() > 2 && word.starts_with("--") && !word.starts_with("---"))
}

/// The balancer's own arguments, but for help and version.
fn args() -> Vec<Arg> {
    let command = Args::command();
    let own = |arg: &&Arg| !["help", "version", "verbose"].contains(&arg.get_id().as_str());
    command.get_arguments().filter(own).cloned().collect()
}

fn flag(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"))
}

/// The default as `--help` shows it.
fn default(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let in_help = help.split("[default: ").nth(1).and_then(|rest| rest.strip_suffix(']'));
    let of_clap = || arg.get_default_values().first().map(|value| value.to_string_lossy());
    let takes_value = arg.get_action().takes_values();
    in_help
        .map(str::to_owned)
        .or_else(|| of_clap().filter(|_| takes_value).map(std::borrow::Cow::into_owned))
        .unwrap_or_default()
}

#[test]
fn the_reference_has_every_flag_once_with_its_environment_variable_and_its_default() {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for row in table("Flags") {
        rows.push((row[0].clone(), row[1].clone(), row[2].clone()));
    }
    for row in table("Timeouts").into_iter().filter(|row| !row[0].is_empty()) {
        rows.push((row[0].clone(), String::new(), row[1].clone()));
    }
    for arg in args() {
        let flag = flag(&arg);
        let is_here = |(name, _, _): &(String, String, String)| {
            *name == flag || flags(name).contains(flag.as_str())
        };
        let here: Vec<usize> = (0..rows.len()).filter(|row| is_here(&rows[*row])).collect();
        assert_eq!(here.len(), 1, "{flag} is in {} rows of the reference", here.len());
        let (_, environment, shown) = rows.remove(here[0]);
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
        assert_eq!(environment, variable.unwrap_or_default(), "{flag}");
        assert_eq!(shown, default(&arg), "{flag}");
    }
    assert!(rows.is_empty(), "the reference has flags that the program does not have: {rows:?}");
}

#[test]
fn the_reference_has_every_key_of_the_file() {
    let rows = Setting::all().map(|setting| {
        let keys: Vec<String> = setting.keys().map(|key| format!("`{key}`")).collect();
        let value = match setting.form {
            Form::Switch => "`true`, `false`".to_owned(),
            Form::List(name) => format!("list of {name}"),
            Form::Value(name) | Form::Choice(name, _) => name.to_owned(),
            Form::Optional(_, names, _) => format!("{}, `true`", names.join(", ")),
            Form::Positional => "DURATION".to_owned(),
        };
        let label = setting.label();
        let environment = setting.env.map_or(String::new(), |name| format!("`{name}` "));
        let when = if setting.may_change() { "" } else { "next start " };
        format!("| {} | `{label}` | {environment}| {value} | {when}|", keys.join(", "))
    });
    let section = REFERENCE.split("\n## ").find(|text| text.starts_with("Configuration file"));
    let shown = section.expect("the reference has it").lines();
    let shown: Vec<&str> = shown.filter(|line| line.starts_with('|')).skip(2).collect();
    let expected: Vec<String> = rows.collect();
    assert_eq!(shown, expected, "it should be:\n{}", expected.join("\n"));
}

#[test]
fn the_reference_lists_every_limit_that_has_a_flag() {
    let limits: Vec<String> = table("Limits").into_iter().map(|row| row[1].clone()).collect();
    for limit in Setting::all().filter(|setting| setting.section == Some("Limits")) {
        let default = limit.show(&Config::default()).unwrap_or_else(|| "no limit".to_owned());
        let shown = format!("--{} ({default}", limit.flag);
        assert!(limits.iter().any(|row| row.starts_with(&shown)), "{shown}: {limits:?}");
    }
}

#[test]
fn the_documentation_lists_every_algorithm_with_all_its_spellings() {
    let rows = table("Algorithms").into_iter().map(|row| {
        let spellings = row.join(", ");
        spellings.trim_end_matches([',', ' ']).to_owned()
    });
    let all = Algorithm::ALL.iter().map(|algorithm| algorithm.spellings().join(", "));
    assert_eq!(rows.collect::<Vec<_>>(), all.collect::<Vec<_>>());
    for algorithm in Algorithm::ALL {
        let row = format!("\n| `{}` |", algorithm.name());
        assert!(README.contains(&row), "{}", algorithm.name());
    }
}

#[test]
fn the_documentation_and_the_error_texts_name_no_other_flags() {
    let command = Args::command();
    let subcommands = command.get_subcommands().flat_map(clap::Command::get_arguments).cloned();
    let mut known: BTreeSet<String> =
        args().into_iter().chain(subcommands).map(|arg| flag(&arg)).collect();
    known.extend(FOREIGN_FLAGS.map(str::to_owned));
    let aliases = Setting::all().flat_map(|setting| setting.aliases);
    known.extend(aliases.map(|alias| format!("--{alias}")));
    let causes = Cause::ALL.iter().map(|cause| cause.description());
    let reasons = Reason::ALL.iter().map(|reason| reason.description());
    for text in causes.chain(reasons).chain([README, REFERENCE, HTTP]) {
        let unknown: Vec<String> = flags(text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn every_code_in_the_tables_of_the_reference_is_a_cause_or_a_reason() {
    let causes = Cause::ALL.iter().map(|cause| cause.code());
    let codes: BTreeSet<&str> = causes.chain(Reason::ALL.iter().map(|r| r.code())).collect();
    let cells = table("Timeouts").into_iter().chain(table("Limits")).flatten();
    let named: BTreeSet<String> =
        cells.flat_map(|cell| words(&cell, |word| word.contains('_'))).collect();
    assert!(named.len() > 10, "{named:?}");
    for code in &named {
        assert!(codes.contains(code.as_str()), "{code} is no code");
    }
}

#[test]
fn the_reference_has_every_cause_and_every_reason_as_the_program_has_it() {
    let side = |side: Side| format!("the {}", format!("{side:?}").to_lowercase());
    let causes = Cause::ALL.iter().map(|cause| {
        let status = cause.status().to_string();
        let plain = |text: &str| text.replace('`', "");
        vec![plain(cause.code()), status, side(cause.side()), plain(cause.description())]
    });
    assert_eq!(table("Error codes"), causes.collect::<Vec<_>>());
    let reasons = Reason::ALL.iter().map(|reason| {
        let is_error = if reason.is_error() { "yes" } else { "" };
        vec![reason.code().to_owned(), is_error.to_owned(), reason.description().to_owned()]
    });
    assert_eq!(table("Close reasons"), reasons.collect::<Vec<_>>());
}

#[test]
fn the_reference_has_every_family_of_metrics_as_the_program_has_it() {
    let families = FAMILIES.iter().map(|family| {
        [family.name, family.kind.name(), family.labels, family.help].map(str::to_owned).to_vec()
    });
    assert_eq!(table("Metrics"), families.collect::<Vec<_>>());
}

#[test]
fn the_reading_order_has_the_files_with_about_their_lines() {
    let rows = ARCHITECTURE.lines().filter(|line| line.contains("| `src/"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let path = cells[2].trim_matches('`');
        let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")));
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&text);
        let (lines, shown) = (code.lines().count(), cells[3].parse::<usize>().expect("a number"));
        assert!(lines.abs_diff(shown) * 10 <= lines, "{path} has {lines} lines, not {shown}");
        count += 1;
    }
    assert!(count > 15, "{count}");
}

#[test]
fn help_shows_every_setting_with_its_default() {
    let help = Args::command().render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in Setting::all() {
        assert!(help.contains(&setting.help_with_default()), "{}", setting.flag);
    }
}
