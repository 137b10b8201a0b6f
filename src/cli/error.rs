//! What stops a command: its text with the evidence, what would help, and its exit code.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use super::exit::Exit;
use super::settings::SettingsError;
use crate::builder::BuildError;
use crate::builder::embedded::OpenError;
use crate::builder::embedded::collect::CollectError;
use crate::builder::embedded::kept::KeptError;
use crate::content::{ContentError, ErrorClass};
use crate::diagnostic::Diagnostics;
use crate::engine::compare::CompareError;
use crate::engine::event::UnitName;
use crate::engine::publish::PublishError;
use crate::engine::{RunSummary, UnitError, UnitFailure};
use crate::oci::ReferenceError;
use crate::package::PackageError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::transfer::TransferError;

/// What stops a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Settings cannot be used.
    #[error(transparent)]
    Settings(Box<SettingsError>),
    /// The command line asks for what cannot be.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What would be right.
        hint: Option<String>,
    },
    /// Files have mistakes.
    #[error("{0}")]
    Mistakes(#[from] Diagnostics),
    /// A package has no tag, no arguments or no place in the order.
    #[error(transparent)]
    Package(Box<PackageError>),
    /// A registry cannot be used.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// A name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The cache cannot be used.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// Images cannot be compared.
    #[error(transparent)]
    Compare(Box<CompareError>),
    /// Content cannot be read or written.
    #[error(transparent)]
    Content(Box<ContentError>),
    /// An image cannot be copied.
    #[error(transparent)]
    Transfer(Box<TransferError>),
    /// A file that the command line names cannot be used.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// Results cannot be written.
    #[error("cannot write the results")]
    Output(#[from] io::Error),
    /// The builder cannot be opened.
    #[error(transparent)]
    Builder(Box<OpenError>),
    /// The registry cannot be written as asked.
    #[error(transparent)]
    Publish(Box<PublishError>),
    /// No room can be made in the cache.
    #[error(transparent)]
    Collect(Box<CollectError>),
    /// A kept step cannot be used.
    #[error(transparent)]
    Kept(Box<KeptError>),
    /// The system gives us no threads.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

impl From<PackageError> for Failure {
    fn from(error: PackageError) -> Self {
        Self::Package(Box::new(error))
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<CompareError> for Failure {
    fn from(error: CompareError) -> Self {
        Self::Compare(Box::new(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<ContentError> for Failure {
    fn from(error: ContentError) -> Self {
        Self::Content(Box::new(error))
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        Self::Transfer(Box::new(error))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Builder(Box::new(error))
    }
}

impl From<KeptError> for Failure {
    fn from(error: KeptError) -> Self {
        Self::Kept(Box::new(error))
    }
}

impl From<CollectError> for Failure {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Store(error) => Self::Store(error),
            error => Self::Collect(Box::new(error)),
        }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::Publish(Box::new(error))
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Settings(Box::new(error))
    }
}

impl Failure {
    /// Returns a mistake in the use of the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Returns the mistakes in files, if that is what this is.
    ///
    /// # Errors
    /// The failure itself, when it is another.
    pub(super) fn into_mistakes(self) -> Result<Diagnostics, Self> {
        match self {
            Self::Mistakes(mistakes) => Ok(mistakes),
            Self::Package(error) => match *error {
                PackageError::Mistakes(mistakes) => Ok(mistakes),
                other => Err(other.into()),
            },
            other => Err(other),
        }
    }

    /// Returns the exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Settings(_) | Self::Usage { .. } | Self::Mistakes(_) | Self::Reference(_) | Self::File { .. } => Exit::Usage,
            // What git cannot answer is a mistake of the workspace: a wrong tag would be worse.
            Self::Package(_) => Exit::Usage,
            Self::Registry(error) if is_setting(error) => Exit::Usage,
            Self::Registry(error) if error.is_unreachable() => Exit::Unavailable,
            Self::Registry(error) => Exit::of_class(error.class()),
            Self::Store(error) => of_store(error),
            Self::Compare(_) => Exit::Damaged,
            Self::Content(error) => Exit::of_class(error.class()),
            // The registry said that it does not have what the command line names.
            Self::Transfer(error) => match &**error {
                TransferError::Absent { .. } | TransferError::NoPlatform { .. } => Exit::Usage,
                error => Exit::of_class(error.class()),
            },
            Self::Publish(error) => super::exit::of_publish(error),
            Self::Output(_) | Self::Builder(_) | Self::Collect(_) => Exit::Damaged,
            Self::Kept(error) => match **error {
                KeptError::Absent(_) | KeptError::Foreign { .. } => Exit::Usage,
                KeptError::InUse(_) => Exit::Temporary,
                KeptError::LayersGone(_) => Exit::Refused,
                KeptError::Sandbox(_) => Exit::Unavailable,
                KeptError::Snapshots(_) | KeptError::Io(_) => Exit::Damaged,
            },
            Self::Runtime(_) => Exit::Temporary,
        }
    }

    /// Returns a command or setting that helps, where there is one.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::Store(error) => store_hint(error),
            Self::Package(error) => error.advice(),
            Self::Settings(error) => matches!(**error, SettingsError::NoCache).then(|| "give one with `--cache DIR`".to_owned()),
            Self::Kept(error) => {
                matches!(**error, KeptError::Absent(_)).then(|| "`pkgbuild debug ls` lists what is kept".to_owned())
            }
            Self::Publish(error) => publish_hint(error).map(str::to_owned),
            _ => None,
        }
    }

    /// Prints the error as people read it.
    pub fn print(&self, out: &mut dyn Write) {
        let mistakes = match self {
            Self::Mistakes(mistakes) => Some(mistakes),
            Self::Package(error) => match &**error {
                PackageError::Mistakes(mistakes) => Some(mistakes),
                _ => None,
            },
            _ => None,
        };
        let mut text = match mistakes {
            Some(mistakes) => mistakes.0.iter().map(|mistake| format!("error: {mistake}\n")).collect(),
            None => format!("error: {}\n", chain(self)),
        };
        if let Some(hint) = self.hint() {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // There is nowhere else to say it.
        let _ = out.write_all(text.as_bytes());
    }
}

/// Returns whether a flag, a variable or the workspace file is what is wrong; no registry was asked then.
fn is_setting(error: &RegistryError) -> bool {
    matches!(error, RegistryError::MirrorSetting(_) | RegistryError::CertificateFile { .. } | RegistryError::NoCertificate(_))
}

/// A cache that the command line names wrongly is a mistake of the command line.
pub(super) fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::NoRoot { .. }
        | StoreError::NoPlatform { .. }
        | StoreError::ManyPlatforms { .. }
        | StoreError::NotALayout { .. }
        | StoreError::ManyImages { .. }
        | StoreError::Nameless { .. } => Exit::Usage,
        // Neither cut off nor unreadable: the file is something else than an archive of images.
        StoreError::Archive(error) if error.class() == ErrorClass::Permanent => Exit::Usage,
        StoreError::InUse { .. } => Exit::Temporary,
        StoreError::Io { .. } | StoreError::Entry { .. } | StoreError::Missing { .. } => Exit::Damaged,
        other => Exit::of_class(other.class()),
    }
}

/// Returns an error and its causes, each in a line of its own after the first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  because: {}", error.to_string().replace('\n', "\n  ")));
        cause = error.source();
    }
    text
}

/// Returns an error and its causes in one line.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Prints what failed in a run, with the evidence, and what would help.
pub fn print_run(summary: &RunSummary, logs: &std::path::Path, out: &mut dyn Write) {
    let mut text = String::new();
    for failure in &summary.failures {
        text.push_str(&failure_text(failure, logs));
    }
    let kept = summary.totals.built + summary.totals.pulled;
    if let (Some(failure), true) = (summary.failures.first(), kept > 0) {
        let platform = failure.platform.as_ref().map(|platform| format!(" --platform {platform}")).unwrap_or_default();
        let units = if kept == 1 { "1 other unit was".to_owned() } else { format!("{kept} other units were") };
        text.push_str(&format!(
            "hint: {units} done and kept; repeat only this one with `pkgbuild build {}{platform}`\n",
            failure.package
        ));
    }
    // There is nowhere else to say it.
    let _ = out.write_all(text.as_bytes());
}

fn failure_text(failure: &UnitFailure, logs: &std::path::Path) -> String {
    let platform = failure.platform.as_ref().map(|platform| format!(" for {platform}")).unwrap_or_default();
    let head = format!("error: `{}` failed{platform}", failure.package);
    match &failure.error {
        UnitError::Mistakes(mistakes) | UnitError::Build(BuildError::Dockerfile(mistakes)) => {
            let lines: String = mistakes.0.iter().map(|mistake| format!("error: {mistake}\n")).collect();
            format!("{head}\n{lines}")
        }
        UnitError::Build(error @ BuildError::Step { step, dockerfile, lines, tail, printed, kept, .. }) => {
            let mut text = format!("{head}: {error}\n{}", source_lines(dockerfile, step.span.line, lines));
            if !tail.is_empty() {
                let shown = match (*printed > tail.len() as u64, &failure.platform) {
                    (true, Some(platform)) => {
                        let unit = UnitName { package: failure.package.clone(), platform: platform.clone() };
                        let log = logs.join(crate::engine::log_name(&unit));
                        format!("the last {} of {printed} lines that it printed; all of them: {}", tail.len(), log.display())
                    }
                    _ => "what it printed".to_owned(),
                };
                text.push_str(&format!("  {shown}:\n"));
                text.extend(tail.iter().map(|line| format!("    {}\n", crate::report::printable(line))));
            }
            if let Some(id) = kept {
                text.push_str(&format!("hint: the step is kept as {id}: `pkgbuild debug exec {id}` enters it\n"));
            }
            text
        }
        UnitError::Build(error @ BuildError::Files { step, dockerfile, lines, .. }) => {
            format!("{head}: {}\n{}", chain(error), source_lines(dockerfile, step.span.line, lines))
        }
        UnitError::Build(error @ BuildError::Unsupported { help, .. }) => format!("{head}: {}\nhint: {help}\n", chain(error)),
        error => {
            let hint = unit_hint(error).map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            format!("{head}: {}\n{hint}", chain(error))
        }
    }
}

fn unit_hint(error: &UnitError) -> Option<&'static str> {
    use crate::engine::plan::Refusal;
    match error {
        UnitError::Refused { refusal: Refusal::Dirty, .. } => Some("commit the changes, or build without pushing"),
        UnitError::Refused { refusal: Refusal::RegistryUnknown(_), .. } => {
            Some("`--on-registry-error build` builds what cannot be looked up; `--offline` asks no registry")
        }
        UnitError::Refused { refusal: Refusal::BuildForbidden, .. } => Some("leave --nobuild out"),
        UnitError::Publish(error) => publish_hint(error),
        _ => None,
    }
}

fn publish_hint(error: &PublishError) -> Option<&'static str> {
    match error {
        PublishError::Missing { .. } => Some("build the missing platforms too, or name those that are meant with `--platform`"),
        PublishError::Moved { .. } => Some("`--move-release`, or `--force` of remote-tag, moves it"),
        _ => None,
    }
}

fn store_hint(error: &StoreError) -> Option<String> {
    match error {
        StoreError::NoRoot { nearest: Some(near), .. } => Some(format!("did you mean `{near}`?")),
        StoreError::NoRoot { .. } => Some("`pkgbuild cache ls` lists what there is".to_owned()),
        StoreError::Damaged { .. } | StoreError::Document { .. } => {
            Some("`pkgbuild cache verify` finds all damage; what is removed and needed is built or pulled again".to_owned())
        }
        _ => None,
    }
}

/// Returns the Dockerfile's lines of a step, the first one marked.
fn source_lines(dockerfile: &std::path::Path, first: u32, lines: &[String]) -> String {
    let mut text = String::new();
    for (number, line) in (first..).zip(lines) {
        let mark = if number == first { ">>>" } else { "   " };
        text.push_str(&format!("  {}:{number} | {mark} {line}\n", dockerfile.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::ArchiveError;

    #[test]
    fn what_the_command_line_says_wrongly_is_a_mistake_of_its_use() {
        let absent = TransferError::Absent { reference: Box::new("a/b:c".parse().expect("a reference")) };
        let archive = StoreError::Archive(ArchiveError::NoImages);
        let failures: [Failure; 4] = [
            RegistryError::MirrorSetting("nonsense".to_owned()).into(),
            RegistryError::NoCertificate("a.pem".into()).into(),
            absent.into(),
            archive.into(),
        ];
        for failure in failures {
            assert_eq!(failure.exit(), Exit::Usage, "{failure}");
        }
    }
}
