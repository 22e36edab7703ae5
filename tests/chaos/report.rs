//! The printed report: the outcomes of all requests, the losses by fault, and the verdict.

use super::balancer::End;
use super::faults::Fault;
use super::ledger::{Blame, Ledger, Outcome, SLOW, Tally};
use super::plan::Class;
use super::scenario::Settings;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One balancer from its start to its end.
pub struct Run {
    pub words: String,
    pub served_for: Duration,
    pub requests: u32,
    pub end: End,
    pub stopped_in: Duration,
    pub peak_mib: f64,
    /// The memory at its end, when it was idle.
    pub resident_mib: Option<f64>,
}

/// The results of a run.
pub struct Report {
    pub settings: Settings,
    pub took: Duration,
    pub ledger: Arc<Ledger>,
    pub runs: Vec<Run>,
    pub episodes: [u64; Fault::ALL.len()],
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { words, requests, end, peak_mib, .. } = self;
        let (served, stopped) = (self.served_for.as_secs_f64(), self.stopped_in.as_secs_f64());
        write!(
            f,
            "lb-threads {words}: {requests} requests in {served:.0} s, {end:?} end in {stopped:.1} s, at most {peak_mib:.0} MiB"
        )?;
        self.resident_mib.map_or(Ok(()), |mib| write!(f, ", {mib:.0} MiB when idle"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.totals(f)?;
        self.outcomes(f)?;
        self.faults(f)?;
        self.losses(f)?;
        self.verdict(f)
    }
}

impl Report {
    /// The number of lost requests that were retryable.
    pub fn avoidable(&self) -> u64 {
        let replayable = Class::ALL.iter().filter(|class| class.is_replayable());
        replayable.map(|class| self.ledger.count(Outcome::Lost, *class)).sum()
    }

    /// How many requests got their right response.
    pub fn served(&self) -> u64 {
        self.ledger.total(Outcome::Served)
    }

    fn totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, offered) = (self.took.as_secs_f64(), self.ledger.offered());
        let Settings { seed, clients, .. } = self.settings;
        writeln!(
            f,
            "\nseed {seed}, {clients} clients: {offered} requests in {seconds:.0} s, {:.0}/s",
            f64::from(offered) / seconds
        )?;
        let ends = |end| self.runs.iter().filter(|run| run.end == end).count();
        let peak = self.runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
        let idle = self.runs.iter().filter_map(|run| run.resident_mib).fold(0.0, f64::max);
        writeln!(
            f,
            "{} balancers, ended: {} clean, {} with connections aborted, {} wrong; resident: at most {peak:.0} MiB, {idle:.0} MiB when idle",
            self.runs.len(),
            ends(End::Clean),
            ends(End::Cut),
            ends(End::Wrong)
        )?;
        let executions = self.ledger.executions();
        writeln!(
            f,
            "backends began {} executions of {} requests; {} requests, none a POST, were executed more than once",
            executions.begun, executions.keys, executions.repeated
        )?;
        let slow: Vec<_> = SLOW
            .iter()
            .zip(self.ledger.slow())
            .map(|(span, count)| format!("{count} over {span:?}"))
            .collect();
        writeln!(f, "slow requests: {}\n", slow.join(", "))
    }

    fn outcomes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| outcome of requests | {} | all |", Class::NAMES.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(Class::ALL.len() + 1))?;
        for (outcome, name) in Outcome::ALL.iter().zip(Outcome::NAMES) {
            let counts = Class::ALL.map(|class| self.ledger.count(*outcome, class));
            writeln!(f, "| {name} | {} | {} |", cells(counts), self.ledger.total(*outcome))?;
        }
        writeln!(f)
    }

    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = self.ledger.executions().met;
        let truncations = self.ledger.truncations();
        let losses = self.ledger.losses();
        writeln!(
            f,
            "| fault | times | requests met | lost, {} | shown as truncation |",
            Class::NAMES.join(" | ")
        )?;
        writeln!(f, "|---|---:|---:|{}", "---:|".repeat(Class::ALL.len() + 1))?;
        let is_to_blame = |blame: Blame, fault: Fault| match blame {
            Blame::Met(met) => met == fault,
            Blame::During(mask) => mask == fault.bit(),
            Blame::Nothing => false,
        };
        for fault in Fault::ALL {
            let lost = losses
                .iter()
                .filter(|((_, blame), _)| is_to_blame(*blame, *fault))
                .map(|(_, tally)| tally);
            let cut = truncations
                .iter()
                .filter(|(blame, _)| is_to_blame(**blame, *fault))
                .map(|(_, tally)| tally);
            let (times, met) = (self.episodes[*fault as usize], met[*fault as usize]);
            writeln!(
                f,
                "| {} | {times} | {met} | {} | {} |",
                fault.label(),
                cells(sum(lost)),
                sum(cut).iter().sum::<u64>()
            )?;
        }
        let several = |blame: &Blame| matches!(blame, Blame::During(mask) if mask.count_ones() > 1);
        let one_of_several =
            losses.iter().filter(|((_, blame), _)| several(blame)).map(|(_, tally)| tally);
        writeln!(f, "| one of several | | | {} | |", cells(sum(one_of_several)))?;
        let nothing = losses
            .iter()
            .filter(|((_, blame), _)| *blame == Blame::Nothing)
            .map(|(_, tally)| tally);
        writeln!(f, "| none | | | {} | |\n", cells(sum(nothing)))
    }

    fn losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| lost with | fault | {} | a backend had it |", Class::NAMES.join(" | "))?;
        writeln!(f, "|---|---|{}", "---:|".repeat(Class::ALL.len() + 1))?;
        for ((cause, blame), tally) in self.ledger.losses() {
            let fault = match blame {
                Blame::Met(fault) => fault.label().to_owned(),
                Blame::During(mask) => format!(
                    "during {}",
                    Fault::of(mask).map(Fault::label).collect::<Vec<_>>().join(" or ")
                ),
                Blame::Nothing => "none".to_owned(),
            };
            writeln!(f, "| {cause} | {fault} | {} | {} |", cells(tally.by_class), tally.had)?;
        }
        writeln!(f)
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (violations, count) = self.ledger.violations();
        for violation in &violations {
            writeln!(f, "violation: {violation}")?;
        }
        let (avoidable, offered, lost) =
            (self.avoidable(), self.ledger.offered().max(1), self.ledger.total(Outcome::Lost));
        let had: u64 = self.ledger.losses().values().map(|tally| tally.had).sum();
        let share = avoidable as f64 / f64::from(offered) * 1e6;
        let verdict = if count == 0 { "holds" } else { "VIOLATED" };
        writeln!(
            f,
            "{verdict}: {count} violations; of {offered} requests {avoidable} replayable ones were lost ({share:.1} in a million), and {} others, {had} of which a backend had",
            lost - avoidable
        )
    }
}

fn sum<'a>(tallies: impl Iterator<Item = &'a Tally>) -> [u64; Class::ALL.len()] {
    let mut sum = [0; Class::ALL.len()];
    for tally in tallies {
        sum.iter_mut().zip(tally.by_class).for_each(|(sum, count)| *sum += count);
    }
    sum
}

fn cells(counts: [u64; Class::ALL.len()]) -> String {
    counts.map(|count| count.to_string()).join(" | ")
}
