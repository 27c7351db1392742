"""The page of the API's reference: Swagger UI over the OpenAPI document, all of it from here."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]  # it has no types

DOCS = "/api/docs"
OWN = Path(__file__).parent / "reference_page"
#: What the page is made of.
FILES = {
    "reference.js": OWN / "reference.js",
    **{name: Path(swagger_ui_path) / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")},
}
#: It runs these scripts and asks this API, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
#: Browsers may keep its files for so long, in seconds.
KEPT_S = 3600

router = APIRouter(include_in_schema=False)


@router.get(DOCS)
async def show_page() -> FileResponse:
    """The page."""
    return FileResponse(OWN / "index.html", headers={"Content-Security-Policy": POLICY})


def _serve(name: str, path: Path) -> None:
    async def send() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": f"public, max-age={KEPT_S}"})

    router.get(f"{DOCS}/{name}")(send)


for _name, _path in FILES.items():
    _serve(_name, _path)
