"""Keys, tokens and passwords never reach a file of a run, nor a message; what only looks like one is let pass."""

from pathlib import Path

import pytest
import yaml

from phalanx.configs.errors import UserError
from phalanx.configs.load import load, stored, to_yaml
from phalanx.configs.schema import RunConfig
from phalanx.launch.main import main
from tests.support.running import DIGITS

SECRET = "hunter2aBcD9"
SECRETS = """\
export WANDB_API_KEY={}
export "WANDB_API_KEY"={}
export 'WANDB_API_KEY={}'
export WANDB_API_KEY="{}"
export WANDB_API""_KEY={}
declare -x HF_TOKEN={}
env AWS_SECRET_ACCESS_KEY={} python
setenv WANDB_API_KEY {}
MYSQL_PWD={}
MY_KEY={}
OPENAI_API_KEY_2={}
AccessToken={}
python -c "import os; os.environ['WANDB_API_KEY'] = '{}'"
wandb login {}
wandb login --relogin --host https://my.server {}
python -m wandb login {}
echo {} | wandb login
wandb login <<< {}
huggingface-cli login --token {}
tool --api-key={}
tool --api-key {}
git clone https://user:{}@host/x.git
pip install git+https://x:{}@host/a
docker login -u me -p {} registry
sshpass -p {} ssh host
curl -u me:{} https://host
curl -H "Authorization: Bearer {}" https://host
aws configure set aws_secret_access_key {}
echo "machine api.wandb.ai login user password {}" >> ~/.netrc
# WANDB_API_KEY={}
export WANDB_API_KEY=$'{}'
export WANDB_API_KEY="${WANDB_API_KEY:-{}}"
export HF_TOKEN=$(printf %s {})
export HF_TOKEN=`echo {}`
export HF_TOKEN=$(base64 -d <<< {})
echo {} > ~/.cache/huggingface/token
echo {} | hf auth login
echo {} | docker login -u me --password-stdin
kinit me <<< {}
python -c "from huggingface_hub import login; login('{}')"
aws configure set default.aws_secret_access_key {}
rclone config create x s3 secret_access_key {}
git config --global user.password "{}"
npm config set //r/:_authToken {}
  password {}
mysql -u me -p{}
unzip -P {} a.zip
openssl enc -k {} -in x
smbclient //h/s -U me%{}
git clone https://{}{}@github.com/x/y
curl -d ok https://hooks.slack.com/services/T0/B0/{}
conda config --add channels https://h/t/ab-0123abcd-{}/c
azcopy cp "https://x/y?sig={}"
GITHUB_PAT={}
DBPASS={}
WANDBKEY={}{}
X=hf_{}{}
X=gsk_{}{}
X=sk_live_{}{}
X=glptt-{}{}
X=dckr_pat_{}{}
X=ghp_{}{}
X=sk-{}{}
""".splitlines()
HARMLESS = """\
MONKEY=1
export MONKEY=banana1
KEYBOARD=us
SORT_KEY=name
TOKENIZERS_PARALLELISM=false
export MAX_TOKENS=512
export WANDB_API_KEY=$(cat ~/.wandb_key)
export WANDB_API_KEY=$KEY
export HF_TOKEN_PATH=/home/me/token
export GOOGLE_APPLICATION_CREDENTIALS=/home/me/google.json
SSH_KEY=~/.ssh/id_ed25519
wandb login
wandb login --relogin
wandb login --host https://my.server
wandb login $WANDB_API_KEY
wandb login 2>/dev/null
tool login -p 8080
sort --key=2n file
export SORT_KEYS=a1b
echo Token: missing
# password: ask bob2
module load sk-something-very-long-1
export HF_TOKEN=YOUR_TOKEN_HERE
export WANDB_API_KEY=XXXX
export WANDB_API_KEY="${WANDB_API_KEY:?is not set}"
export WANDB_API_KEY="${WANDB_API_KEY:-}"
export HF_TOKEN=$(pass show hf)
git checkout 0123456789abcdef0123456789abcdef01234567
git clone ssh://git@github.com/x/y
export http_proxy=http://proxy:8080
docker run -p 8080:80 image
conda activate hf_transformers
conda activate sk-learn
cd $PWD
set -euo pipefail
module load cuda/12.4
""".splitlines()


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load([DIGITS], overrides)
    return str(caught.value)


@pytest.mark.parametrize("line", SECRETS)
def test_a_line_that_holds_a_key_is_refused_and_never_repeated(line: str) -> None:
    line = line.replace("{}", SECRET)
    said = refusal(f"slurm.setup={yaml.safe_dump(['module load cuda', line], default_flow_style=True, width=1000)}")
    assert "slurm.setup[1] holds " in said and "Remove it" in said and SECRET not in said


def test_lines_that_only_look_like_keys_pass() -> None:
    config = load([DIGITS], [f"slurm.setup={yaml.safe_dump(HARMLESS, default_flow_style=True, width=10_000)}"])
    assert config.slurm.setup == HARMLESS


def test_names_and_folders_that_only_look_like_tokens_pass() -> None:
    for name in ("sk-learn-resnet50-baseline-2026", "gsk_run", "deadbeef" * 5, "hf_datasets_imagenet_1k_wds", "password-less"):
        config = load([DIGITS], [f"name={name}", f"track.project={name}", f"data.root=/x/{name}"])
        assert config.track.project == name


@pytest.mark.parametrize(
    "override",
    [
        f"slurm.extra={{export: 'ALL,WANDB_API_KEY={SECRET}'}}",
        f"slurm.extra.WANDB_API_KEY={SECRET}",
        f"slurm.extra.api-key={SECRET}",
        f"slurm.extra={{'--api-key={SECRET}': ''}}",
        f"slurm.setup=export WANDB_API_KEY={SECRET}",
        f"slurm.setup=[[export WANDB_API_KEY={SECRET}]]",
        f"slurm.setup={{WANDB_API_KEY: {SECRET}}}",
        f"slurm.setup=[export WANDB_API_KEY={SECRET}",
        f"slurm.extra=[{SECRET}]",
        f"slurm.environment.WANDB_API_KEY={SECRET}",
        f"slurm=export WANDB_API_KEY={SECRET}",
        f"track.project=hf_{SECRET}{SECRET}",
        f"track.project=dckr_pat_{SECRET}{SECRET}",
        f"track.project=WANDB_API_KEY={SECRET}",
        f"data.root=https://host/data?access_token={SECRET}",
        f"data.root=https://user:{SECRET}@host/data",
        f"task.options.password={SECRET}",
        f"task.options={{login: {{api_key: {SECRET}}}}}",
        f"train.steps=hf_{SECRET}{SECRET}",
        f"dist.precision=TOKEN={SECRET}",
    ],
)
def test_no_message_repeats_a_key_wherever_it_stands(override: str) -> None:
    assert SECRET not in refusal(override)


def test_every_verb_that_writes_a_configuration_refuses_keys_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = f"slurm.setup=['export HF_TOKEN={SECRET}']"
    for verb in (["train", "--nproc", "2"], ["submit", "--local"], ["submit", "--dry-run"], ["config"]):
        assert main([verb[0], DIGITS, line, *verb[1:]]) == 2
    for argument in (f"--api-key={SECRET}", f"export WANDB_API_KEY={SECRET}"):
        assert main(["train", DIGITS, argument, "--nproc", "2"]) == 2
    shown = capsys.readouterr()
    assert SECRET not in shown.err + shown.out and "HF_TOKEN" in shown.err
    assert not list(tmp_path.iterdir())


def test_a_run_of_before_that_holds_a_key_is_still_read(tmp_path: Path) -> None:
    values = load([DIGITS]).model_dump(mode="json")
    values["slurm"]["setup"] = [f"export HF_TOKEN={SECRET}"]
    (tmp_path / "config.yaml").write_text(to_yaml(RunConfig.model_validate(values)))
    assert stored(str(tmp_path / "config.yaml")).slurm.setup
    with pytest.raises(UserError, match=r"slurm.setup\[0\] holds HF_TOKEN"):
        load([], [], values)
    assert load([], ["slurm.setup=[]"], values).slurm.setup == []


@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "exclude", "reservation", "memory", "time"])
@pytest.mark.parametrize("ending", ["\\n#SBATCH --wrap=x", "\\rreboot", "\\u2028x", "\\x85x"])
def test_no_text_of_slurm_holds_a_second_line(key: str, ending: str) -> None:
    said = refusal(f'slurm.{key}="a{ending}"')
    assert f"slurm.{key}=(not shown)" in said or f"slurm.{key}=a\\" in said


@pytest.mark.parametrize(
    "override",
    ['slurm.setup=["a\\nb"]', 'slurm.extra={comment: "a\\nb"}', 'slurm.extra={"a\\nb": c}', "slurm.extra={a b: c}",
     'runs="a\\nb"', 'name="a\\nb"', 'dist.interface="a\\nb"', 'data.root="a\\nb"'],
)  # fmt: skip
def test_no_line_break_reaches_a_batch_script(override: str) -> None:
    refusal(override)
    nested = yaml.safe_load(override.partition("=")[2])
    section, _, key = override.partition("=")[0].rpartition(".")
    values = load([DIGITS]).model_dump(mode="json")
    (values[section] if section else values)[key] = nested
    with pytest.raises(ValueError, match=r"one line|names of sbatch|a folder"):
        RunConfig.model_validate(values)
