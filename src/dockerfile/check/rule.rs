//! The checks by name. The names are BuildKit's, so that a `# check=skip=…` means the same to both.

/// A check: something that builds and is hardly ever meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// `ConsistentInstructionCasing`
    ConsistentInstructionCasing,
    /// `CopyIgnoredFile`
    CopyIgnoredFile,
    /// `DuplicateStageName`
    DuplicateStageName,
    /// `ExposeInvalidFormat`
    ExposeInvalidFormat,
    /// `ExposeProtoCasing`
    ExposeProtoCasing,
    /// `FromAsCasing`
    FromAsCasing,
    /// `FromPlatformFlagConstDisallowed`
    FromPlatformFlagConstDisallowed,
    /// `InvalidDefaultArgInFrom`
    InvalidDefaultArgInFrom,
    /// `InvalidDefinitionDescription`
    InvalidDefinitionDescription,
    /// `JSONArgsRecommended`
    JsonArgsRecommended,
    /// `LegacyKeyValueFormat`
    LegacyKeyValueFormat,
    /// `MaintainerDeprecated`
    MaintainerDeprecated,
    /// `MultipleInstructionsDisallowed`
    MultipleInstructionsDisallowed,
    /// `NoEmptyContinuation`
    NoEmptyContinuation,
    /// `RedundantTargetPlatform`
    RedundantTargetPlatform,
    /// `ReservedStageName`
    ReservedStageName,
    /// `SecretsUsedInArgOrEnv`
    SecretsUsedInArgOrEnv,
    /// `StageNameCasing`
    StageNameCasing,
    /// `UndefinedArgInFrom`
    UndefinedArgInFrom,
    /// `UndefinedVar`
    UndefinedVar,
    /// `WorkdirRelativePath`
    WorkdirRelativePath,
}

impl Rule {
    /// All of them, sorted by name.
    pub const ALL: [Self; 21] = [
        Self::ConsistentInstructionCasing,
        Self::CopyIgnoredFile,
        Self::DuplicateStageName,
        Self::ExposeInvalidFormat,
        Self::ExposeProtoCasing,
        Self::FromAsCasing,
        Self::FromPlatformFlagConstDisallowed,
        Self::InvalidDefaultArgInFrom,
        Self::InvalidDefinitionDescription,
        Self::JsonArgsRecommended,
        Self::LegacyKeyValueFormat,
        Self::MaintainerDeprecated,
        Self::MultipleInstructionsDisallowed,
        Self::NoEmptyContinuation,
        Self::RedundantTargetPlatform,
        Self::ReservedStageName,
        Self::SecretsUsedInArgOrEnv,
        Self::StageNameCasing,
        Self::UndefinedArgInFrom,
        Self::UndefinedVar,
        Self::WorkdirRelativePath,
    ];

    /// Returns its name, as `# check=skip=` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::ReservedStageName => "ReservedStageName",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::StageNameCasing => "StageNameCasing",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::UndefinedVar => "UndefinedVar",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
        }
    }

    /// Returns what to do about it.
    pub fn help(self) -> &'static str {
        match self {
            Self::ConsistentInstructionCasing => "write all instructions in one case",
            Self::CopyIgnoredFile => "it is not in the context: take it out of the ignore file, or do not copy it",
            Self::DuplicateStageName => "give each stage a name of its own: a name means the last stage that has it",
            Self::ExposeInvalidFormat => "name the port alone, as in `EXPOSE 80/tcp`: whoever runs the image maps it",
            Self::ExposeProtoCasing => "write the protocol in lower case",
            Self::FromAsCasing => "write `FROM … AS` or `from … as`",
            Self::FromPlatformFlagConstDisallowed => {
                "leave `--platform` out, use `$BUILDPLATFORM`, or name the architecture in the stage's name"
            }
            Self::InvalidDefaultArgInFrom => "give the ARG a default that makes the name of an image",
            Self::InvalidDefinitionDescription => {
                "begin the comment with the name that it describes, or put an empty line below it"
            }
            Self::JsonArgsRecommended => "write a JSON array: a shell in between keeps signals from the program",
            Self::LegacyKeyValueFormat => "write `name=value`",
            Self::MaintainerDeprecated => "write `LABEL org.opencontainers.image.authors=…`",
            Self::MultipleInstructionsDisallowed => "delete it: only the last one of a stage counts",
            Self::NoEmptyContinuation => "remove it, or start its line with `#`",
            Self::RedundantTargetPlatform => "leave `--platform` out: that is what it means without",
            Self::ReservedStageName => "choose another name: `scratch` and `context` have a meaning of their own",
            Self::SecretsUsedInArgOrEnv => "whoever has the image can read it: use `RUN --mount=type=secret`",
            Self::StageNameCasing => "write the name in lower case",
            Self::UndefinedArgInFrom => "declare it by an ARG before the first FROM",
            Self::UndefinedVar => "declare it by an ARG or set it by an ENV of this stage",
            Self::WorkdirRelativePath => "begin with `/`: the directory of the base image can change",
        }
    }

    /// Returns whether it is off unless `# check=experimental=` names it.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}
